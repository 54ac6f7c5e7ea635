"""Weights and data from formulas: the scripts beside this file start from the same numbers under any engine."""

import torch


def wave(count, phase):
    """sin(0.37 k + phase) for k = 0, 1, ...: spread over [-1, 1], without a random generator."""
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.37 + phase)


def fill(model):
    """Every weight from its place in the model, scaled by its fan-in; batch norms a little off their start."""
    with torch.no_grad():
        for number, (name, p) in enumerate(model.named_parameters()):
            values = wave(p.numel(), number).view(p.shape)
            if p.dim() > 1:
                p.copy_(values * (2.0 / p[0].numel()) ** 0.5)
            elif name.endswith("weight"):
                p.copy_(1 + 0.1 * values)
            else:
                p.copy_(0.1 * values)
    return model


def images(count, size, channels=3, classes=10):
    """(images, labels): each class has a wave of its own, so that there is something to learn."""
    labels = torch.arange(count) % classes
    grid = torch.arange(channels * size * size, dtype=torch.float64).view(1, channels, size, size)
    pictures = torch.sin(grid * 0.05 * (labels.view(-1, 1, 1, 1) + 1) + torch.arange(count).view(-1, 1, 1, 1))
    return pictures.to(torch.get_default_dtype()), labels
