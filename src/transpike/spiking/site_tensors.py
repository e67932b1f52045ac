"""Check the values that every site has: its neuron, and one number per channel of each kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from transpike.errors import DataError
from transpike.graph.network import Network, Site

_SIGNS = {"lowers": -1, "uppers": 1}
_RULES = {-1: "values <= 0", 1: "values >= 0"}


def check_per_site(
    network: Network, neurons: Collection[str], per_site: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Refuse sites without values, values without sites, and values that no neuron can have.

    Args:
        network: the network.
        neurons: the names of the sites that have a neuron.
        per_site: "steps", "starts" and "offsets", each with a tensor (C,) by site name, and
            "lowers" and "uppers" with those of the sites behind a region.

    Raises:
        DataError: the error names the site and the kind of values.
    """
    device = next((tensor.device for tensor in network.tensors.values()), None)
    for kind, found in {"neurons": neurons, **per_site}.items():
        if not isinstance(found, Mapping if kind != "neurons" else Collection):
            raise DataError(
                f"{kind}: needed one for each site by name, got {type(found).__name__}."
            )
        every = kind not in _SIGNS
        names = {site.name for site in network.sites if every or site.follows_region}
        wrong = names.symmetric_difference(found)
        if wrong:
            which = "site" if every else "site behind a region"
            raise DataError(
                f"{kind}: needed one for each {which}, and '{min(wrong)}' is missing or too much."
            )
        for site in network.sites:
            if site.name in names and kind in per_site:
                _check_values(kind, site, per_site[kind][site.name], network.dtype, device)


def _check_values(
    kind: str, site: Site, values: object, dtype: torch.dtype, device: torch.device | None
) -> None:
    """Steps below the smallest normal number would lose their digits."""
    sign = _SIGNS.get(kind, 0)
    rule = "values > 0" if kind == "steps" else _RULES.get(sign, "finite values")
    needed = f"{kind} of '{site.name}': needed {site.channels} {rule} of {dtype}"
    if not isinstance(values, Tensor):
        raise DataError(f"{needed} in a tensor, got {type(values).__name__}.")
    if values.layout != torch.strided or values.is_meta or device not in (None, values.device):
        raise DataError(
            f"{needed}, dense and on {device or 'a device'}, got {values.layout} on "
            f"{values.device}."
        )
    if values.requires_grad:
        raise DataError(f"{needed} without gradient, got requires_grad=True. Use .detach().")
    if values.shape != (site.channels,) or values.dtype != dtype:
        raise DataError(f"{needed}, got shape {tuple(values.shape)} of {values.dtype}.")
    wrong = ~torch.isfinite(values)
    if kind == "steps":
        wrong |= values < torch.finfo(dtype).tiny
    wrong |= values * sign < 0
    if bool(wrong.any()):
        channel = int(wrong.int().argmax())
        raise DataError(f"{needed}, got {float(values[channel])} in channel {channel}.")


__all__ = ["check_per_site"]
