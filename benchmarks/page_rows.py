"""The rows of the page of performance: what each measures, in plain words."""

from __future__ import annotations

from dataclasses import dataclass

GPU = "-1b-cuda"  # what the results of a GPU are called after their row


@dataclass(frozen=True)
class Row:
    """One benchmark.

    Args:
        code: as the project's plan calls it.
        file: of its results.
        ratio: what is measured.
        meaning: in plain words, for the reader of the page.
        on_gpu: the file's name before `-1b-cuda`, where it is another script's.
    """

    code: str
    file: str
    ratio: str
    meaning: str
    on_gpu: str | None = None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Its results' files, each with the device that it says."""
        return (self.file, ""), ((self.on_gpu or self.file) + GPU, "GPU: ")


ROWS = (
    Row(
        "G0",
        "fidelity",
        "fused against alone",
        "Nothing below would matter if training together changed a result. The difference of "
        "loss curves is measured against that of two alone runs whose micro-batches were cut "
        "differently, so 1 means: rounding, and nothing else. (Up to 1.1 counts as met, as two "
        "estimates of one noise agree no better.) The lines of gradients replace the latents of "
        "a trial's neighbours and look for any change of its own gradient. Trials are of four "
        "strategies; after the engine's defaults over many steps come, over few, the ways of "
        "computing that the rows below time. Products in bfloat16 are held to their own noise, "
        "which is thousands of times that of float32.",
    ),
    Row(
        "B1",
        "fusion",
        "trial-tokens per second, T trials fused over one at a time",
        "Fusing buys back idle hardware and nothing more. A CPU is idle where steps are small, in "
        "the overhead of each call; with 16 rows per trial one trial keeps it busy, and there is "
        "little to win. The targets are for 64 trials.",
    ),
    Row(
        "B2",
        "glue",
        "makespan, Ray Tune + PEFT glued by hand over `latentune run`",
        "The same 32 configurations, steps and rule of early stopping (one in three of those "
        "that have come to the rung so far goes on; who comes first is each arm's own, so that "
        "the trial-steps differ a little, and are told). By hand: Ray Tune with `reuse_actors`, "
        "a process per trial that loads base model and rows once for all its trials, PEFT's "
        "`prompt_tuning` for latents at the start and `trainable_tokens`, placed by a collator, "
        "for the others; the better of one and two at a time. Whole commands, start-up "
        "included, in turn; tracking is part of ours alone. On two cores the glue is "
        "faster. The last lines say what our arm needs beside training: driver, engine, thin "
        "trials, ledger and tracking start and end. That is most of a search with 1 row; it does "
        "not grow with the steps. What fusion saves is for longer searches of small steps, for a "
        "GPU, and for bases that take long to load. On a GPU, without Ray and PEFT, a process "
        "per trial runs this project's own engine, so that it lacks nothing but the sharing.",
        on_gpu="processes",
    ),
    Row(
        "B3",
        "prefix",
        "step time without over with a shared prefix",
        "What stands before a row's first site is the same for all trials of a search. The gain "
        "is that of the rows' layout: nothing where latents stand at the start. A prefix still "
        "costs its one forward, and every tail attends to it, so 1 / (1 - p) is out of reach: at "
        "75% of rows of 64 tokens the slots alone, latents counted, allow 3.38 with 16 trials.",
    ),
    Row(
        "B4",
        "memory",
        "memory of a trial more",
        "A trial that waits holds its latents and two moments. Memory at work is bounded by "
        "tokens in flight, not by trials; what rows go on from counts among them, so that "
        "sharing a long prefix takes no more than computing it for each row.",
    ),
    Row(
        "B5",
        "occupancy",
        "useful slots; refill over continuous batching",
        "A search of 64 trials that early stopping thins out, with recorded decisions. The "
        "makespan in slots counts held places times steps, the time of an engine whose step "
        "costs the same however full it is. On a CPU a step with fewer rows is shorter, by "
        "nearly as much, so that the makespan in seconds, by which the target is judged, gains "
        "the overhead of a step, and no more.",
    ),
    Row(
        "B6",
        "evaluation",
        "generated tokens per second, all trials together over a loop of `generate()`",
        "A loop of 8 or 16 prompts already fills a CPU's matrix products in part; what remains is "
        "attention over the cache, which reads the same keys and values per token on either side: "
        "the more prompts a trial has, the less there is to win on a CPU.",
    ),
    Row(
        "B7",
        "limit",
        "FLOP/s of the fused step over the machine's matmul rate at its shapes",
        "FLOPs are 4 per parameter and token, as a frozen model needs no weight gradients; "
        "attention is not counted, though it takes time. The model's pass alone shows what an "
        "engine could reach at best; the profile says where a step's time goes.",
    ),
    Row(
        "B8",
        "scale-out",
        "makespan efficiency on many engines, **simulated**",
        "A discrete-event simulation, fed with recorded losses and with step times measured on "
        "this machine, and checked against real Ray actors that sleep half as long as a step "
        "takes. No cluster was measured, and scoring is not in it. In the product a trial stays "
        "on its engine; the other lines are what moving would give. Many engines are not full "
        "towards the end of a search: few trials are left, each engine has one or two, and a "
        "trial-step alone costs what its line below says of one among 16. What no "
        "schedule can pass follows from the work, at the cheapest number of trials in a step, "
        "and from the longest trial by itself: with few trials it alone forbids the target. "
        "Where it leaves room, the last two lines say what the gap consists of: what trials "
        "that move at any time would give, and what knowing from the start which of them early "
        "stopping will let go on, which nobody can. More trials per engine close it, too. Which "
        "engine has least to do depends on whose report comes first, so that runs of one search "
        "differ among themselves: the second line says by how much where round trips vary from "
        "0.6 to 2.5 times the measured one, and no simulation of one search can be surer.",
    ),
)
SIDE_ROWS = (
    Row(
        "S1",
        "threads",
        "step time of one way to use the cores over another",
        "Lanes, a micro-batch on each core, are what engines do. The others cut each operation; "
        "threads that wait for their part of one spin or sleep. A search always has "
        "something beside its engine: a driver, thin trials, a shipper.",
    ),
    Row(
        "S2",
        "micro-batches",
        "step time at other sizes of a micro-batch over 2,048 tokens",
        "The default on a CPU is 2,048 tokens; above 1 means that the other size is slower.",
    ),
    Row(
        "S3",
        "decoding",
        "`generate()` with latents over without, per new verbal token",
        "Judged by CPU seconds on one thread; the limit is 1.15 times the share of extra tokens.",
    ),
)
