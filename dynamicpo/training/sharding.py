"""Weights of decoder layers in parts, one in each process (FSDP2), for models with an adapter.

The layers are sharded, each by itself; embeddings and head stay whole in every process, as our
scoring calls them outside of the model's own forward pass.
"""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from dynamicpo.core.errors import ConfigError
from dynamicpo.distributed.group import world_size
from dynamicpo.scoring.transformers_internals import decoder_layers


def shard_layers(model: nn.Module) -> None:
    """Leave each process a part of every layer's weights; gradients are summed over all.

    Raises:
        ConfigError: One process, or weights in training that would not be sharded.
    """
    from torch.distributed.fsdp import fully_shard

    if world_size() == 1:
        raise ConfigError(
            "sharding: 'full' needs several processes, but this one is alone. Set num_processes, "
            "or sharding 'none'."
        )
    layers = decoder_layers(model)
    _check(model, layers)
    for layer in layers:
        sharded = fully_shard(layer)
        # The step's loss is divided already.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    # On CPUs other ways of sharding fall back to whole copies, in silence.
    types = {type(weight.data) for weight in _trained(model).values()}
    assert types == {DTensor}, f"weights in training are {types}"


def is_sharded(model: nn.Module) -> bool:
    """Tell whether the weights in training are parts."""
    return any(isinstance(weight.data, DTensor) for weight in _trained(model).values())


def _check(model: nn.Module, layers: list[nn.Module]) -> None:
    within = {id(weight) for layer in layers for weight in layer.parameters()}
    outside = [name for name, weight in _trained(model).items() if id(weight) not in within]
    if outside:
        raise ConfigError(
            f"sharding: 'full' needs an adapter on the model's layers alone, but {outside[0]} is "
            "trained, too. Use tuning 'lora' and items as titles, or sharding 'none'."
        )
    kinds = {weight.dtype for weight in model.parameters() if not weight.is_floating_point()}
    if kinds:
        raise ConfigError(
            "sharding: 'full' takes no quantized weights, got "
            f"{', '.join(map(str, kinds))}. Use quantization 'none', or sharding 'none'."
        )


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def gather_weights(model: nn.Module) -> None:
    """Make the weights in training whole again in every process, to be saved."""
    for module in model.modules():
        for name, weight in _own_weights(module):
            module.register_parameter(name, nn.Parameter(whole(weight.detach())))


def _own_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, weight in list(module.named_parameters(recurse=False)):
        if weight.requires_grad and isinstance(weight.data, DTensor):
            yield name, weight


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes; itself where it is no part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, where a weight of its shape is a part."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    on_device = tensor.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements)
