"""Package metadata. ``properties/`` is shipped inside the package, so that an installed copy works from any folder."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
version: dict = {}
exec((HERE / "recbole_genrec" / "version.py").read_text(encoding="utf-8"), version)

PROPERTY_FOLDERS = ["", *sorted(path.name for path in (HERE / "properties").iterdir() if path.is_dir())]

setup(
    name="recbole-genrec",
    version=version["__version__"],
    description="Generative recommenders beside the classical sequential baselines, inside RecBole: "
                "same splits, same evaluator",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=[*find_packages(include=["recbole_genrec*", "dataset_converters*"]), "recbole_genrec.properties"],
    package_dir={"recbole_genrec.properties": "properties"},
    package_data={"recbole_genrec.properties": [f"{folder}/*.yaml".lstrip("/") for folder in PROPERTY_FOLDERS],
                  "recbole_genrec.demo": ["page.html"],
                  "recbole_genrec.report": ["*.html", "*.js", "*.css"]},
    install_requires=[
        "recbole==1.2.1",       # its internals are subclassed and repaired (compat.py)
        "torch>=2.10",          # as low as some bounds could be without a known hole: tests/advisories.yaml
        "transformers>=5.10.1,<6",
        "peft>=0.17",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "numpy>=1.26,<3",
        "pandas>=2.0,<3",       # pandas 3's copy-on-write breaks RecBole's in-place remapping
        "scipy>=1.10",          # significance, audit
        "scikit-learn>=1.5",    # semantic and collaborative item indexes
        "psutil>=5.9",          # memory that is free
        "threadpoolctl>=3.1",   # scikit-learn's own: one thread where sums must be reproducible
        "matplotlib>=3.8",      # plots of ablations
        "pyarrow>=14.0.1",      # per_user.parquet
        "setuptools>=78.1.1,<81",  # RecBole's dependencies still import pkg_resources
        "pyyaml>=6",
        "filelock>=3.20.1",
        "tabulate>=0.10",
        "rapidfuzz>=3.0",       # near misses of free text, titles as people type them
        "tqdm>=4.66.3",
    ],
    extras_require={"grid": ["submitit>=1.5"],  # runs spread over a cluster
                    "test": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "statsmodels>=0.14",
                             "submitit>=1.5"]},
    entry_points={"console_scripts": ["recbole-genrec = recbole_genrec.cli:main"]},
)
