"""GraTa written the plain way, with torch's own BatchNorm: an oracle that shares no code with the package."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


def with_batch_statistics(model):
    """A copy whose BatchNorm layers recollect their statistics at every forward, as TENT and GraTa set them."""
    model = copy.deepcopy(model).train()
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
            module.requires_grad_(True)
    return model


def affine_parameters(model):
    return [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in (m.weight, m.bias)]


def all_parameters(model):
    """Those outside the branches: first scale and shift of each BatchNorm layer, then all others, in module order."""
    modules = [module for name, module in model.named_modules() if not name.startswith("branches")]
    others = [m for m in modules if not isinstance(m, nn.BatchNorm2d)]
    affine = [p for m in modules if isinstance(m, nn.BatchNorm2d) for p in (m.weight, m.bias)]
    return affine + [p for m in others for p in m.parameters(recurse=False)]


def adapt_stream(model, images, *, learning_rate, strong=lambda image: image, optimizer=torch.optim.Adam):
    """Adapt to images ``[1, 3, H, W]`` one after the other; returns a record per image."""
    model = with_batch_statistics(model)
    parameters = affine_parameters(model)
    optimizer = optimizer(parameters, lr=learning_rate)
    records = []
    for x in images:
        p = torch.sigmoid(model(x))
        loss_entropy = (-p * torch.log(p + 1e-6)).sum(1).mean()
        auxiliary = torch.autograd.grad(loss_entropy, parameters)
        saved = [q.detach().clone() for q in parameters]
        with torch.no_grad():
            for q, g in zip(parameters, auxiliary, strict=True):
                q -= g
            teacher = torch.zeros_like(p)
            for k in range(4):
                teacher += torch.rot90(torch.sigmoid(model(torch.rot90(x, k, (2, 3)))), -k, (2, 3))
            for d in (2, 3):
                teacher += torch.sigmoid(model(x.flip(d))).flip(d)
            teacher /= 6
        loss_consistency = F.binary_cross_entropy_with_logits(model(strong(x)), teacher)
        pseudo = torch.autograd.grad(loss_consistency, parameters)
        flat_a, flat_p = (torch.cat([g.flatten() for g in grads]) for grads in (auxiliary, pseudo))
        cosine = float(flat_a @ flat_p / (flat_a.norm() * flat_p.norm() + 1e-12))
        with torch.no_grad():
            for q, s in zip(parameters, saved, strict=True):
                q.copy_(s)
        for q, g in zip(parameters, pseudo, strict=True):
            q.grad = g
        rate = learning_rate * (cosine + 1) ** 2 / 4
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        with torch.no_grad():
            logits = model(x)
        records.append(
            {
                "loss_auxiliary": loss_entropy.item(),
                "loss_pseudo": loss_consistency.item(),
                "cosine": cosine,
                "lr": rate,
                "logits": logits,
                "theta": torch.cat([q.detach().flatten() for q in parameters]),
            }
        )
    return records
