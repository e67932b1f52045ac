"""Check the values that every site has: its neuron, and one number per channel of each kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from transpike.errors import DataError
from transpike.graph.network import Network, Site


def check_per_site(
    network: Network, neurons: Collection[str], per_site: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Refuse sites without values, values without sites, and values that no neuron can have.

    Args:
        network: the network.
        neurons: the names of the sites that have a neuron.
        per_site: "steps", "starts" and "offsets", each with a tensor (C,) by site name.

    Raises:
        DataError: the error names the site and the kind of values.
    """
    names = {site.name for site in network.sites}
    for kind, found in {"neurons": neurons, **per_site}.items():
        wrong = names.symmetric_difference(found)
        if wrong:
            raise DataError(
                f"{kind}: needed one for each site, and '{min(wrong)}' is missing or too much."
            )
    for site in network.sites:
        for kind, tensors in per_site.items():
            _check_values(kind, site, tensors[site.name], network.dtype)


def _check_values(kind: str, site: Site, values: Tensor, dtype: torch.dtype) -> None:
    """Steps below the smallest normal number would lose their digits."""
    steps = kind == "steps"
    fits = values.shape == (site.channels,) and values.dtype == dtype
    fits = fits and bool(torch.isfinite(values).all())
    if not fits or (steps and bool((values < torch.finfo(dtype).tiny).any())):
        rule = "values > 0" if steps else "finite values"
        raise DataError(
            f"{kind} of '{site.name}': needed {site.channels} {rule} of {dtype}, got shape "
            f"{tuple(values.shape)} of {values.dtype}."
        )


__all__ = ["check_per_site"]
