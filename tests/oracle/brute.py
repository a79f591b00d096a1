"""The paper's definitions, literally: full covariances by plain hooks, one sequence at a time, no padding, float64."""

from __future__ import annotations

import torch

from farss.model.targets import weight_matrix


def full_covariances(model, examples, targets, *, tokens="nonpad", shift=0):
    """Name -> (S_h [n, n], S_delta [m, m]), means over positions, by hooks on every module and autograd.

    `shift` moves the response mask by so many positions: a planted error.
    """
    sums = {t.name: [torch.zeros(t.shape[1], t.shape[1]), torch.zeros(t.shape[0], t.shape[0])] for t in targets}
    sums = {name: [part.double() for part in parts] for name, parts in sums.items()}
    count = 0
    for example in examples:
        ids = torch.tensor([example.prompt_ids + example.response_ids])
        start = len(example.prompt_ids) - 1
        rows = slice(None) if tokens == "nonpad" else slice(start + shift, ids.shape[1] - 1 + shift)
        count += len(range(ids.shape[1])[rows])
        captured: dict = {}
        handles = []
        for target in targets:

            def hook(module, args, output, name=target.name, captured=captured):
                output.retain_grad()
                captured[name] = (args[0], output)

            handles.append(target.module.register_forward_hook(hook))
        log_probs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        (-sum(log_probs[i - 1, ids[0, i]] for i in range(start + 1, ids.shape[1]))).backward()
        for handle in handles:
            handle.remove()
        for name, (h, y) in captured.items():
            inner, outer = h.detach()[0][rows], y.grad[0][rows]
            sums[name][0] += inner.T @ inner
            sums[name][1] += outer.T @ outer
    model.zero_grad(set_to_none=True)
    return {name: (inner / count, outer / count) for name, (inner, outer) in sums.items()}


def literal_scores(target, activation, gradient):
    """(sigma, lam, gam, s, importance) of Eq. 8 and 13-15 with both full covariances and an ordinary SVD."""
    weight = weight_matrix(target).double()
    left, sigma, right = torch.linalg.svd(weight, full_matrices=False)
    lam = torch.stack([v @ activation @ v for v in right])
    gam = torch.stack([u @ gradient @ u for u in left.T])
    importance = torch.trace(gradient @ weight @ activation @ weight.T) / weight.numel()
    return sigma, lam, gam, sigma.square() * lam * gam, importance
