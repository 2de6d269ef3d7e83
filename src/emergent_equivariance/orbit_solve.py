"""μ_t and Σ_t under full augmentation, one irrep of the group at a time.

On whole orbits of training samples the Gram matrices commute with the group. In the basis
v̂_ac(j) = √(d/|G|) Σ_h ρ_ac(h)* v(j, h) they consist of one block B(ρ) of size d N per irrep, d times each
(``kernels.orbits``), and so does every function of them: the formulas of ``dynamics`` hold block by block, with
the rate constant λ → ηλ/(|G| N n_out) of the whole set. Back on the orbits

    μ_t(gx)     = Σ_ρ √(d/|G|) Σ_ab ρ_ab(g) μ̂_ab(x)
    Σ_t(gx, hx) = σ(g⁻¹h),   σ(u) = Σ_ρ (d/|G|) Σ_bc σ̂_bc(x) ρ_bc(u)*

(derived in docs/theory.md). The mean needs only the irreps that occur in the action on the outputs: for invariant
targets the trivial one, that is the N samples with the orbit-averaged kernel. The covariance needs all. Of a pair
of complex-conjugate irreps one is solved, the other is its complex conjugate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from . import dynamics
from .groups import Action, Group

__all__ = ["OrbitSpectrum", "covariance", "decompose", "largest_eigenvalue", "mean", "occurring", "representatives"]


def representatives(group: Group) -> list[int]:
    """Indices of the irreps to solve: all, but one of each complex-conjugate pair."""
    return [i for i, partner in enumerate(group.conjugate) if i <= partner]


def occurring(action: Action) -> list[int]:
    """Those of ``representatives`` that occur in an action: (1/|G|) Σ_g χ_ρ(g)* tr ρ_Y(g) > 0."""
    group = action.group
    traces = {i: np.trace(group.irreps[i], axis1=1, axis2=2) for i in representatives(group)}
    return [i for i, trace in traces.items() if np.real(trace.conj() @ action.character) > group.order / 2]


@dataclass(frozen=True, eq=False)
class OrbitSpectrum:
    """Eigendecomposition of a Gram matrix on whole orbits, per irrep.

    Attributes:
      group: the group.
      blocks: irrep → Spectrum of B(ρ), with the rows and the cutoff of the whole matrix.
      largest: largest eigenvalue of the whole matrix.
    """

    group: Group
    blocks: dict[int, dynamics.Spectrum]
    largest: float

    @property
    def eigenvalue(self) -> np.ndarray:
        """(mode,) ascending, every eigenvalue as often as the whole matrix has it; of the blocks solved."""
        parts = [np.repeat(block.eigenvalue, self.copies(i)) for i, block in self.blocks.items()]
        return np.sort(np.concatenate(parts))

    def copies(self, irrep: int) -> int:
        """How often a block occurs in the whole matrix: d, twice that if it stands for a conjugate pair."""
        d = self.group.irreps[irrep].shape[1]
        return d if self.group.conjugate[irrep] == irrep else 2 * d


def decompose(
    group: Group, grams: Mapping[int, np.ndarray], rows: int, others: Iterable[np.ndarray] = ()
) -> OrbitSpectrum:
    """Eigendecomposition block by block.

    Args:
      group: the group.
      grams: irrep → B(ρ) (row, row_) between training samples, Hermitian.
      rows: rows of the whole matrix, |G| N.
      others: further blocks, not to be decomposed, that might have the largest eigenvalue.
    """
    blocks = {i: dynamics.decompose(gram) for i, gram in grams.items()}
    largest = largest_eigenvalue(max(float(block.eigenvalue[-1]) for block in blocks.values()), others)
    limit = dynamics.cutoff(rows, largest)
    return OrbitSpectrum(group, {i: replace(block, rows=rows, cutoff=limit) for i, block in blocks.items()}, largest)


def largest_eigenvalue(known: float, others: Iterable[np.ndarray]) -> float:
    """Largest eigenvalue of a matrix, from that of one of its diagonal blocks and the other blocks.

    The eigenvalues of a block B are computed only if λ·1 − B is not positive definite, which its Cholesky
    decomposition tells.
    """
    for gram in others:
        try:
            scipy.linalg.cholesky(known * np.eye(len(gram)) - gram, check_finite=False, overwrite_a=True)
        except scipy.linalg.LinAlgError:
            known = max(known, dynamics.largest_eigenvalue(gram))
    return known


def mean(
    spectrum: OrbitSpectrum,
    cross_ntk: Mapping[int, np.ndarray],
    target: np.ndarray,
    times: Sequence[float],
    learning_rate: float,
    form: dynamics.Form = "descent",
) -> np.ndarray:
    """μ_t on whole orbits.

    Args:
      spectrum: of the NTK, all irreps that occur in the action on the outputs.
      cross_ntk: irrep → (sample, d, row) B(ρ) between the orbits of any samples and of the training samples.
      target: (train, element, output) ρ_Y(h) y_j.
      times: t in steps of size η, with the rate constant λ → ηλ/(|G| N n_out); inf is allowed.
      learning_rate: η.
      form: descent (whole steps) or flow.

    Returns:
      (time, sample, element, output).
    """
    group, parts = spectrum.group, []
    for i, block in spectrum.blocks.items():
        irrep = group.irreps[i]
        d = irrep.shape[1]
        norm = np.sqrt(d / group.order)
        modes = norm * np.einsum("hac,jho->jcao", irrep.conj(), target)
        modes = modes.reshape(-1, d, target.shape[-1])
        fitted = dynamics.mean(block, cross_ntk[i], modes, times, learning_rate, form)
        parts.append(_real(spectrum, i, norm * np.einsum("gab,tsbao->tsgo", irrep, fitted)))
    return _total(parts)


def covariance(
    spectrum: OrbitSpectrum,
    cross_ntk: Mapping[int, np.ndarray],
    cross_nngp: Mapping[int, np.ndarray],
    train_nngp: Mapping[int, np.ndarray],
    nngp: np.ndarray,
    times: Sequence[float],
    learning_rate: float,
    outputs: int,
    form: dynamics.Form = "descent",
) -> np.ndarray:
    """Σ_t within each orbit, per output.

    Args:
      spectrum: of the NTK, all irreps.
      cross_ntk: irrep → (sample, d, row) B(ρ) of the NTK between the samples and the training samples.
      cross_nngp: the same of the NNGP kernel.
      train_nngp: irrep → (row, row_) B(ρ) of the NNGP kernel between training samples.
      nngp: (sample, element, element_) K(gx, hx).
      times: t in steps of size η, with the rate constant λ → ηλ/(|G| N n_out); inf is allowed.
      learning_rate: η.
      outputs: n_out.
      form: descent (whole steps) or flow.

    Returns:
      (time, sample, element, element_), symmetric in the last two; exactly ``nngp`` at t = 0.
    """
    group, parts = spectrum.group, []
    for i, block in spectrum.blocks.items():
        irrep = group.irreps[i]
        d = irrep.shape[1]
        initial = np.zeros((len(nngp), d, d))
        fitted = dynamics.covariance(
            block, cross_ntk[i], cross_nngp[i], train_nngp[i], initial, times, learning_rate, outputs, form
        )
        parts.append(_real(spectrum, i, d / group.order * np.einsum("ubc,tsbc->tsu", irrep.conj(), fitted)))
    change = _total(parts)
    change = _total([change, change[..., group.inverse]]) / 2
    return nngp + change[..., group.product[group.inverse]]


def _total(parts: Sequence[np.ndarray]) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # above the critical learning rate
        return np.sum(parts, axis=0)


def _real(spectrum: OrbitSpectrum, irrep: int, part: np.ndarray) -> np.ndarray:
    """The part of an irrep in a real function on the orbits, together with its complex conjugate's."""
    return part if spectrum.group.conjugate[irrep] == irrep else 2 * part.real
