"""0/1 Adam and 1-bit Adam by their formulas: float64, one process, one tensor after the other, exact means.

With exact means nothing is left of compression but where it is asked for, so that every rank's weights can be
followed number by number.
"""

from __future__ import annotations

import torch
from compressed_cases import Small, batch_of, loss_of

from foldase_models.training.config import learning_rate
from foldase_models.training.optim.policies import Exchange, turns


def follow(config, size):
    """Weights of every rank after every step, and its losses: ``[steps][ranks]``, flat, float64."""
    models = [Small().double() for _ in range(size)]
    optimizer, (beta, gamma) = config.optimizer, config.optimizer.betas
    common = [parameter.detach().clone() for parameter in models[0].parameters()]
    moments = [[torch.zeros_like(one) for one in common] for _ in models]
    pending = [[torch.zeros_like(one) for one in common] for _ in models]
    second = [torch.zeros_like(one) for one in common]
    shrunk, rates = [1.0] * len(common), [0.0] * len(common)
    weights, losses = [], []
    seen, begun, kappa = 0, 1.0, optimizer.compression.variance_kappa
    mean_square = noise = 0.0
    for step, turn in enumerate(turns(config)):
        own, told = gradients(models, config, step)
        losses.append(told)
        rate = learning_rate(config, step)
        decay = [rate * optimizer.weight_decay * (one.dim() > 1) for one in common]
        if turn.exchange is Exchange.WHOLE:
            mean = [sum(every) / size for every in zip(*own, strict=True)]
            steady = min(gamma, (kappa - 1) / (kappa + 1))
            kept = max(gamma ** (step + 1 - seen), steady) if turn.variance else 1.0
            square = squared(mean)
            mean_square = kept * mean_square + (1 - kept) * square
            excess = sum(squared(each) for each in own) / size - square
            noise = kept * noise + (1 - kept) * excess / (size - 1)
            mean = clipped(mean, config.clip_norm)
            own = [mean] * size
            if turn.variance:
                seen, begun = step + 1, begun * kept
                second = [kept * v + (1 - kept) * g * g for v, g in zip(second, mean, strict=True)]
        else:
            longer = (1 + (size - 1) * min(1.0, max(0.0, noise / mean_square))) ** 0.5
            own = [clipped(each, longer * config.clip_norm) for each in own]
        below = [torch.sqrt(v / (1 - begun)) + optimizer.epsilon for v in second]
        unbiased = rate / (1 - beta ** (step + 1))
        for place in range(len(common)):
            known = second[place] != 0
            shrunk[place] *= 1 - decay[place]
            rates[place] = (1 - decay[place]) * rates[place] + unbiased
            for rank in range(size):
                moments[rank][place] = beta * moments[rank][place] + (1 - beta) * own[rank][place]
                pending[rank][place] *= 1 - decay[place]
                pending[rank][place] += unbiased * moments[rank][place]
            if turn.exchange is not Exchange.LOCAL:
                mean = sum(each[place] for each in pending) / size * known
                common[place] = shrunk[place] * common[place] - mean / below[place]
                for rank in range(size):
                    moments[rank][place] = mean / rates[place]
                    pending[rank][place].zero_()
                shrunk[place], rates[place] = 1.0, 0.0
        for rank, model in enumerate(models):
            show(model, common, shrunk, pending[rank], below, second)
        weights.append([flat(model) for model in models])
    return weights, losses


def gradients(models, config, step):
    """Of each rank's estimate of the mean loss, and that loss."""
    count, size = config.micro_batches, len(models)
    found, losses = [], []
    for rank, model in enumerate(models):
        model.zero_grad()
        parts = range(rank, count, size)
        every = [loss_of(model, batch_of(step * count + part)) for part in parts]
        (sum(every) * size / count).backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
        losses.append(float(sum(every).detach()) / len(every))
    return found, losses


def squared(gradient):
    return float(sum((one * one).sum() for one in gradient))


def clipped(gradient, limit):
    norm = squared(gradient) ** 0.5
    return [one * min(1.0, limit / (norm + 1e-6)) for one in gradient]


def show(model, common, shrunk, pending, below, second):
    with torch.no_grad():
        for parameter, *one in zip(model.parameters(), common, shrunk, pending, below, second, strict=True):
            start, share, change, denominator, v = one
            parameter.copy_(share * start - change * (v != 0) / denominator)


def flat(model):
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
