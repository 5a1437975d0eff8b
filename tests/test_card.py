import json
import re
from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set

from dreamforge.card import write_card
from dreamforge.info import describe
from dreamforge.pack import pack
from shared.errors import ConfigError
from shared.files import sha256_of

HOSTILE = (
    "\x1b[2J</script><img src=x onerror=alert(1)>`|\n# [a](javascript:b) [bold]red[/bold]\u202e"
)


def front_matter(readme: str) -> dict:
    """The YAML head; each line is ``key: JSON``, which is YAML."""
    head = readme.split("---\n")[1]
    lines = (line.partition(": ") for line in head.splitlines())
    return {key: json.loads(value) for key, _, value in lines}


def test_the_card_says_what_the_index_says(tmp_path: Path) -> None:
    index = write_dream_set(
        tmp_path,
        provenance={
            "license": "Apache-2.0",
            "created": "2026-11-20T10:00:00+00:00",
            "command": "dreamforge synth --teacher x.pt",
            "synthetic": True,
        },
    )

    readme, croissant = write_card(index, url="https://example.org/d", creator="A team")

    text = readme.read_text()
    head = front_matter(text)
    assert head["license"] == "apache-2.0"
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"][0]["path"] == "dreams-*-of-*.h5"
    assert describe(index)["digest"] in text
    assert "`dreamforge synth --teacher x.pt`" in text
    assert "Synthetic does not mean private" in text
    record = json.loads(croissant.read_text())
    assert record["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert record["license"] == "https://spdx.org/licenses/Apache-2.0.html"
    assert record["creator"]["name"] == "A team"
    assert record["prov:wasDerivedFrom"]["@id"] == "urn:sha256:" + "ab" * 32
    listed = {entry["contentUrl"]: entry["sha256"] for entry in record["distribution"]}
    assert listed == {path.name: sha256_of(path) for path in tmp_path.glob("*.h5")}


def test_real_images_are_called_so(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path, provenance={"synthetic": False})

    readme, _ = write_card(index)

    text = readme.read_text()
    assert "These are real images" in text
    assert "synthetic" not in front_matter(text)["tags"]
    assert front_matter(text)["license"] == "other"
    assert front_matter(text)["license_name"] == "unspecified"


@pytest.mark.parametrize("said", [{"seconds": 1}, {"synthetic": "no"}, {"synthetic": 1}])
def test_nothing_is_claimed_where_the_set_does_not_say(tmp_path: Path, said: dict) -> None:
    index = write_dream_set(tmp_path, provenance=said)

    readme, croissant = write_card(index)

    text = readme.read_text()
    assert describe(index)["synthetic"] is None
    assert "does not say whether its images are synthetic. Treat them as real" in text
    assert "synthetic" not in front_matter(text)["tags"]
    assert "24 images of unknown origin" in json.loads(croissant.read_text())["description"]


def test_what_the_numbers_of_sigmoids_mean_is_said_and_a_softmax_goes_without_saying(
    tmp_path: Path,
) -> None:
    names = ("none", "top", "left", "round")
    for folder, answers in (("a", "sigmoid"), ("b", "softmax")):
        (tmp_path / folder).mkdir()
        spec = tiny_spec(class_names=names, answers=answers)

        readme, croissant = write_card(write_dream_set(tmp_path / folder, spec=spec))

        description = json.loads(croissant.read_text())["description"]
        for text in (readme.read_text(), description):
            assert ("may show several at once" in text) == (answers == "sigmoid")
            assert ("always 0" in text) == (answers == "sigmoid")


def test_a_packed_set_promises_no_loading(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    pack(write_dream_set(tmp_path), folder / "one.h5")

    readme, croissant = write_card(folder / "one.h5")

    assert "configs" not in front_matter(readme.read_text())
    assert len(json.loads(croissant.read_text())["distribution"]) == 1


def test_strings_of_the_file_are_only_text(tmp_path: Path) -> None:
    spec = tiny_spec(architecture=HOSTILE, class_names=(HOSTILE,) * 4)
    provenance = dict.fromkeys(("license", "created", "command", "device"), HOSTILE)
    index = write_dream_set(
        tmp_path, spec=spec, provenance=provenance | {"versions": {HOSTILE: HOSTILE}}
    )

    readme, croissant = write_card(index, name=HOSTILE)

    text = readme.read_text()
    front_matter(text)
    assert "\x1b" not in text + croissant.read_text()
    assert "\u202e" not in text
    body = text.split("---\n", 2)[2]
    unquoted = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<|(?<!\\)\]\(", unquoted)
    assert all(line.count("|") in (3, 4) for line in body.splitlines() if line.startswith("|"))


def test_what_is_there_is_kept_unless_asked(tmp_path: Path) -> None:
    index = write_dream_set(tmp_path)
    (tmp_path / "README.md").write_text("mine")

    with pytest.raises(ConfigError, match="is there already"):
        write_card(index)
    write_card(index, overwrite=True)

    assert (tmp_path / "README.md").read_text() != "mine"


@pytest.mark.filterwarnings("ignore")
def test_the_validator_of_the_field_accepts_it(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    _, croissant = write_card(write_dream_set(tmp_path))

    metadata = mlcroissant.Dataset(jsonld=str(croissant)).metadata

    assert metadata.ctx.issues.errors == set()
    assert len(metadata.distribution) == 3


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_loads_the_shards_as_they_are(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_dream_set(tmp_path)

    loaded = datasets.load_dataset(
        "hdf5",
        data_files=str(tmp_path / "dreams-*-of-*.h5"),
        cache_dir=str(tmp_path / "cache"),
        split="train",
    ).with_format("torch")

    assert set(loaded.column_names) == {"images", "labels", "logits", "batch", "loss"}
    assert torch.equal(loaded["labels"][:], tiny_dreams().labels)
    assert torch.equal(loaded[5]["images"].to(torch.uint8), tiny_dreams().images[5])
