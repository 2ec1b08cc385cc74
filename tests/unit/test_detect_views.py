"""Views of a detector: boxes, masks and keypoints come back to the picture, and all views share one suppression."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.unit.test_detect import NET, SPEC, sample
from visloom import drive
from visloom.cli import main
from visloom.data.town import Drive
from visloom.errors import ConfigError
from visloom.nets.detection.roi import Found
from visloom.run import Eval, Host, Log, Optim, Run
from visloom.saved import evaluate
from visloom.stream import Ordered, Shuffled
from visloom.tasks.detect import FCOS, Detect, FasterRCNN, Features, RetinaNet
from visloom.tasks.detect.views import View, Views, look, parse
from visloom.units import Steps
from visloom.words import number

ALL = Views(scales=(0.5, 1.5), flip=True)


def test_words():
    assert parse("flip,0.75, 1.25") == Views(scales=(0.75, 1.25), flip=True)
    assert parse("none") == Views() and Views().all() == [View(1.0, False)]
    assert ALL.all() == [View(s, f) for f in (False, True) for s in (1.0, 0.5, 1.5)]
    for words in ("flip,blink", "0", "9", "sliding"):
        with pytest.raises(ConfigError, match="views are flip and scales above 0"):
            SPEC.with_tta(words)


@pytest.mark.parametrize("plus", [0.0, 1.0])
@pytest.mark.parametrize("view", ALL.all())
def test_boxes_there_and_back(view, plus):
    """A picture with one bright block: its box in the view frames the block there."""
    image = torch.zeros(1, 1, 64, 96)
    image[0, 0, 16:32, 8:40] = 1.0
    size = (48, 80)
    seen, (here,) = view.of(image, [size], 16)
    assert here == (round(48 * view.scale), round(80 * view.scale))
    assert seen.shape[2] % 16 == 0 and seen[0, 0, here[0] :].abs().sum() == 0
    inside = seen[0, 0, : here[0], : here[1]]
    rows, columns = torch.where(inside > 0.5)
    frame = [columns.min(), rows.min(), columns.max() + 1 - plus, rows.max() + 1 - plus]
    box = torch.tensor([[8.0, 16.0, 40.0 - plus, 32.0 - plus]])
    there = view.there(box, size, here, plus)
    assert torch.allclose(there[0], torch.tensor(frame).float(), atol=0.51)
    assert torch.allclose(view.back(there, size, here, plus), box, atol=1e-4)


class Blocks:
    """A detector that finds the bright block of each picture, and says how bright its left half is as a mask."""

    branches = True

    def features(self, image):
        return [image]

    def candidates(self, features, size, sizes):
        found = []
        for picture, (height, width) in zip(features[0], sizes, strict=True):
            rows, columns = torch.where(picture[0, :height, :width] > 0.5)
            frame = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            found.append(Found(frame[None], torch.tensor([0.5 + height / 1000]), torch.tensor([1])))
        return found

    def settled(self, found):
        return found.pick(found.scores.argsort(descending=True)[:2])

    def branched(self, features, found):
        result = []
        for picture, each in zip(features[0], found, strict=True):
            cut = [picture[0, int(y0) : int(y1), int(x0) : int(x1)] for x0, y0, x1, y1 in each.boxes.round()]
            halves = [
                torch.stack([c[:, : c.shape[1] // 2].mean(), c[:, c.shape[1] // 2 :].mean()]) for c in cut
            ]
            points = torch.tensor([[[1.0, 2.0, 1.0]]]).expand(len(each.boxes), 1, 3)
            result.append(each._replace(masks=torch.stack(halves)[:, None], keypoints=points))
        return result


def test_all_views_are_settled_together_and_masks_are_averaged():
    image = torch.zeros(2, 1, 64, 96)
    image[0, 0, 16:32, 8:24] = 1.0
    image[0, 0, 16:32, 24:40] = 0.75  # the right half is darker: a mirror must not change places
    image[1, 0, 8:24, 40:80] = 1.0
    found = look(Blocks(), image, [(48, 64), (48, 96)], ALL, divisible=16, plus=0.0)
    assert len(found) == 2
    for each, box in zip(found, ([8, 16, 40, 32], [40, 8, 80, 24]), strict=True):
        assert len(each.boxes) == 2  # two of six views
        assert each.scores.tolist() == pytest.approx(
            [0.5 + 72 / 1000] * 2
        )  # the largest ones were the surest
        assert torch.allclose(each.boxes, torch.tensor(box).float().expand(2, 4), atol=0.7)
        assert each.keypoints[0].tolist() == [[1.0, 2.0, 1.0]]
    assert found[0].masks[0, 0].tolist() == pytest.approx([1.0, 0.75], abs=0.05)


SMALL = FasterRCNN(
    **{
        f.name: getattr(NET, f.name)
        for f in dataclasses.fields(NET)
        if f.name not in ("masks", "mask_layers")
    },
    masks=True,
    mask_layers=(8,),
)
EVERY = {"score": 0.0, "before": 10**6, "most": 10**6, "nms": 1.0}  # untrained cells are all equally sure
NETS = {
    "faster": NET,
    "mask": SMALL,
    "retina": RetinaNet(body=Features("test_resnet"), width=16, **EVERY),
    "fcos": FCOS(body=Features("test_resnet"), width=64, **EVERY),
}


@pytest.mark.parametrize("kind", NETS)
def test_a_mirrored_picture_has_the_mirrored_answer(kind):
    """With the mirror image among the views nothing depends on which of the two the picture is."""
    torch.manual_seed(3)
    spec = Detect(net=NETS[kind], classes=("a", "b"), divisible=32, views=Views(flip=True))
    task = spec.build().eval()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 96, 3), np.uint8)
    plain, mirrored = (
        sample(size=(64, 96)).replace(image=np.ascontiguousarray(p)) for p in (picture, picture[:, ::-1])
    )
    answers = []
    for each in (plain, mirrored):
        batch = spec.collate([each.replace(boxes=None, labels=None)], None)
        with torch.no_grad():
            answers.append(task.predict(batch))
    first, second = ({name: column[0] for name, column in answer.items()} for answer in answers)
    assert len(first["boxes"]) > 3
    back = second["boxes"][:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor([96.0, 0, 96, 0])
    # equal scores of both views may come in either order
    a, b = (x[np.lexsort(x.round(decimals=2).numpy().T)] for x in (first["boxes"], back))
    assert torch.allclose(a, b, atol=2e-2)
    assert torch.allclose(first["scores"], second["scores"], atol=1e-4)
    if kind == "mask":
        assert first["masks"].shape == (len(first["boxes"]), 64, 96)
    without = dataclasses.replace(spec, views=Views()).build().eval()
    without.load_state_dict(task.state_dict())
    with torch.no_grad():
        alone = without.predict(spec.collate([plain.replace(boxes=None, labels=None)], None))
    assert len(alone["boxes"][0]) != len(first["boxes"]) or not torch.allclose(
        alone["boxes"][0], first["boxes"]
    )


def test_views_of_scale_one_change_nothing_for_a_net_in_the_original_s_convention():
    """The same candidates, settled by the same suppression."""
    from visloom.tasks.detect import ResNetBody

    torch.manual_seed(1)
    net = FasterRCNN(
        body=ResNetBody(stem=8, out=32, group_width=8), neck="c4", before=(100, 50), after=(30, 20), score=0.2
    )
    spec = Detect(net=net, classes=("a", "b"), compat=True)
    task = spec.build().eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        (plain,) = task.net.detect(task.net.features(image), (64, 96), [(64, 96)])
        (same,) = look(task.net, image, [(64, 96)], Views(scales=(1.0,)), divisible=32, plus=1.0)
        (more,) = look(task.net, image, [(64, 96)], Views(flip=True), divisible=32, plus=1.0)
    assert torch.allclose(plain.boxes, same.boxes, atol=1e-4) and torch.equal(plain.scores, same.scores)
    assert len(plain.boxes) and not torch.equal(more.scores, plain.scores)


def test_evaluate_and_predict_take_views(tmp_path, capsys):
    town = Drive(samples=6, height=48, width=64)
    run = Run(
        name="views",
        task=dataclasses.replace(SPEC, net=dataclasses.replace(NET, score=0.01)),
        train=Shuffled(source=town, batch=2),
        evals={"val": Eval(stream=Ordered(source=town, batch=3))},
        length=Steps(2),
        optim=Optim(name="AdamW", lr=5e-3),
        host=Host(out=str(tmp_path / "runs"), workers=0, threads=1),
        log=Log(images=0),
    )
    where = str(drive.train(run).directory)
    plain, viewed = (evaluate(where, tta=tta)["evaluations"]["val"] for tta in (None, "flip,1.5"))
    assert plain["values"]["loss/boxes"] == viewed["values"]["loss/boxes"]  # losses are those of the picture
    assert plain["values"]["ar100"] != viewed["values"]["ar100"]
    capsys.readouterr()
    assert main(["evaluate", where, "--tta", "flip,1.5"]) == 0
    shown = capsys.readouterr().out.split()
    assert shown[shown.index("ar100") + 1] == number(viewed["values"]["ar100"])
    assert main(["evaluate", where, "--tta", "blink"]) == 3
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray(town.read(0).image).save(tmp_path / "photos/a.png")
    tables = []
    for words in ([], ["--tta", "flip,1.5"]):
        assert main(["predict", where, str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *words]) == 0
        tables.append((tmp_path / "out/predictions.csv").read_text())
    assert tables[0] != tables[1]
