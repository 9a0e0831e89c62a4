"""Backbones: a torchvision (or, with the extra, timm) model cut where its features leave, and the weights that go into it."""
