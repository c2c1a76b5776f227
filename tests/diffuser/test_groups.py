from __future__ import annotations

from versatile_diffusion.diffuser.groups import parameter_counts, parameter_groups


def test_groups_cover_every_parameter_once(unet):
    groups = parameter_groups(unet)
    assert set(groups) == {"global", "data.image", "data.text", "context.image", "context.text"}
    named = [name for members in groups.values() for name, _ in members]
    assert sorted(named) == sorted(name for name, _ in unet.named_parameters())
    assert all(name.startswith(group) for group, members in groups.items() if "." in group for name, _ in members)
    assert all(p is unet.get_parameter(name) for members in groups.values() for name, p in members)


def test_counts(unet):
    counts = parameter_counts(unet)
    assert counts["global"] == sum(p.numel() for p in unet.time_embed.parameters())
    assert sum(counts.values()) == sum(p.numel() for p in unet.parameters())
