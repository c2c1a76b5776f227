"""Parts of the page that its modules share: the studio, a drawn tab, and who asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from versatile_diffusion.serving.clients import client_of
from versatile_diffusion.ui.forms.applications import application_forms
from versatile_diffusion.ui.forms.tabs import Form, task_form
from versatile_diffusion.ui.page.desk import Desk
from versatile_diffusion.ui.page.kept import Kept, owner_of
from versatile_diffusion.ui.page.models import AllowedModels
from versatile_diffusion.ui.page.panel import Panel
from versatile_diffusion.ui.page.shelf import Made, Shelves


@dataclass(frozen=True)
class Studio:
    """Parts of the studio that the page uses.

    Args:
        desk: processes requests; has the model.
        shelves: store results.
        title: name of the model.
        kept: folder in which results are saved; None keeps them for the session only.
        owners: whose page a session is.
        choices: models and adapters that may be loaded.
    """

    desk: Desk
    shelves: Shelves
    title: str
    kept: Kept | None = None
    owners: OrderedDict[str, str] = field(default_factory=OrderedDict)
    choices: AllowedModels = field(default_factory=AllowedModels)

    def arrive(self, session: str, identity: str) -> None:
        """Remember whose page a session is: a login, or what a browser calls itself."""
        self.owners[session] = owner_of(identity or session)
        while len(self.owners) > self.desk.limits.visitors:
            self.owners.popitem(last=False)

    def owner(self, session: str) -> str:
        """Return whose page a session is, as stored with results."""
        return self.owners.get(session) or owner_of(session)


@dataclass(frozen=True)
class Tab:
    """A drawn form.

    Args:
        form: its definition.
        inputs: components by name.
        panels: result panels, one per output modality.
        stage: status of the request.
        clock: receives the time of an event.
    """

    form: Form
    inputs: Mapping[str, Any]
    panels: Sequence[Panel]
    stage: Any
    clock: Any

    @property
    def outputs(self) -> list[Any]:
        """Components of all panels."""
        return [output for panel in self.panels for output in panel.outputs]

    def shown(self, numbers: Sequence[int], made: Sequence[Made]) -> list[Any]:
        """Return updates of the panels that show these results."""
        updates = []
        for panel in self.panels:
            mine = [(number, one) for number, one in zip(numbers, made, strict=True) if one.data == panel.data]
            updates += panel.shown([number for number, _ in mine], [one for _, one in mine])
        return updates


@dataclass(frozen=True)
class Who:
    """Sender of a request: person, tab, and time by the browser's clock; None without a browser."""

    person: str
    place: str
    begun: float | None
    client: str

    @classmethod
    def of(cls, request: gr.Request, place: str, begun: float | None) -> Who:
        address = request.client.host if request.client else None
        return cls(str(request.session_hash), place, begun, client_of(address, request.username))


def forms(studio: Studio) -> list[Form]:
    """Return the forms that this model supports: tasks, then applications."""
    pipe = studio.desk.pipe
    return [*map(task_form, pipe.tasks()), *application_forms(pipe)]
