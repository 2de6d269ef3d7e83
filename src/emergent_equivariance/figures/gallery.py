"""The pictures of docs/gallery.md: ``python -m emergent_equivariance.figures.gallery RESULTS FOLDER``.

They are drawn from the metrics.nc of finished studies in RESULTS, never from constants. Studies that are not there are
skipped, and named.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

__all__ = ["PICTURES", "draw_gallery"]

#: Study → pictures of it in the gallery.
PICTURES = {
    "ising": ("orbit_scaling", "orbit_in_time", "measured_over_predicted", "distance_to_ntk", "orbit_profile"),
    "cosine": ("mirror",),
    "digits": ("same_predictions",),
    "kernel_convergence": ("kernel_convergence",),
    "learning_curves": ("learning_curves",),
}

#: Pixels per inch, and number of colours of a file: a picture takes less than 120 kB.
RESOLUTION, COLOURS_OF_A_FILE = 120, 128


def draw_gallery(results: Path, folder: Path) -> list[Path]:
    """Draw the pictures of the studies that are in ``results`` as PNG files in ``folder``; returns their paths.

    Raises StoreError if a metrics.nc cannot be read.
    """
    from PIL import Image

    from ..store import read_netcdf
    from . import FIGURES
    from .style import style

    drawn = []
    for study, names in PICTURES.items():
        path = results / study / "metrics.nc"
        if not path.exists():
            print(f"{path} is not there: {', '.join(names)} not drawn", file=sys.stderr)
            continue
        metrics = read_netcdf(path)
        for name in names:
            figure = FIGURES[name].draw(metrics)
            drawn.append(folder / f"{name}.png")
            picture = BytesIO()
            with style():
                figure.savefig(picture, dpi=RESOLUTION, metadata={"Software": None})
            Image.open(picture).convert("RGB").quantize(COLOURS_OF_A_FILE).save(drawn[-1], optimize=True)
    return drawn


if __name__ == "__main__":
    for made in draw_gallery(Path(sys.argv[1]), Path(sys.argv[2])):
        print(made)
