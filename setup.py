"""All package metadata lives in settings.ini; edit it there."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

STATUSES = ["", "1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta", "5 - Production/Stable", "6 - Mature"]
EXTRA = "_requirements"


def words(key: str) -> list[str]:
    """The space-separated words of one setting."""
    return cfg.get(key, "").split()


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8") if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"]},
    classifiers=[
        f"Development Status :: {STATUSES[int(cfg['status'])]}",
        f"Intended Audience :: {cfg['audience']}",
        "Intended Audience :: Science/Research",
        f"Natural Language :: {cfg['language']}",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    include_package_data=True,
    zip_safe=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=words("requirements"),
    extras_require={key.removesuffix(EXTRA): words(key) for key in cfg if key.endswith(EXTRA)},
    entry_points={
        "console_scripts": words("console_scripts"),
        "crossrec.datasets": words("dataset_entry_points"),
        "crossrec.formats": words("format_entry_points"),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
)
