"""How a module takes on another form: the same parts and parameters under the same names, with another forward pass."""

from __future__ import annotations

from torch import nn


class Form:
    """What all classes of this room derive from, beside the class of the model whose forward pass they replace.

    A form adds no parameters and no attributes: a module takes it on, and gives it up, by a change of its class.
    """


def take_form(module: nn.Module, form: type[nn.Module]) -> None:
    """Gives a module another forward pass, in the place of any that it was given before."""
    lay_off_form(module)
    assert issubclass(form, type(module)), f"{form.__name__} is no form of {type(module).__name__}"
    module.__class__ = form


def lay_off_form(module: nn.Module) -> None:
    """Gives a module back the forward pass that it was built with."""
    module.__class__ = next(kind for kind in type(module).__mro__ if not issubclass(kind, Form))
