import math
from itertools import pairwise

import pytest
from diffusers import DDIMScheduler

from maquette.diffusion.process import CLEAN, Discrete, Process, RectifiedFlow, shifted
from maquette.diffusion.schedules import SCHEDULES, Schedule, flux_shift, schedule
from maquette.errors import MaquetteError

SD = Discrete.scaled_linear()
PROCESSES: dict[str, Process] = {
    "SD": SD,
    "cosine": Discrete.cosine(),
    "zero terminal": Discrete.scaled_linear(zero_terminal_snr=True),
    "flow": RectifiedFlow(),
    "flow, shift 3": RectifiedFlow(shift=3.0),
}
FLOW_ONLY = {"flow", "sd3"}


def ratios(made: Schedule) -> list[float]:
    return [math.exp(-level.lam) for level in made]


def times(made: Schedule) -> list[float]:
    return [level.t for level in made]


@pytest.mark.parametrize(("n", "key"), [(5, "k.discrete_5"), (10, "k.discrete10"), (50, "k.discrete_50")])
def test_linspace_is_kdiffusion_s_discrete(n: int, key: str, recorded_schedules: dict[str, list[float]]) -> None:
    # Its times are float32: 1e-7 of a thousand steps.
    assert ratios(schedule("linspace", SD, n)) == pytest.approx(recorded_schedules[key], rel=1e-6)


@pytest.mark.parametrize(("n", "key"), [(5, "k.karras_5"), (20, "k.karras_20"), (50, "k.karras_50")])
def test_karras_is_kdiffusion_s(n: int, key: str, recorded_schedules: dict[str, list[float]]) -> None:
    made = schedule("karras", SD, n, sigma_max=14.6146, sigma_min=0.0292)
    assert ratios(made) == pytest.approx(recorded_schedules[key], rel=2e-6)  # float32


def test_ramps_over_the_whole_range_are_kdiffusion_s(recorded_schedules: dict[str, list[float]]) -> None:
    assert ratios(schedule("karras", SD, 10)) == pytest.approx(recorded_schedules["k.karras10"], rel=2e-6)
    assert ratios(schedule("exponential", SD, 10)) == pytest.approx(recorded_schedules["k.exponential10"], rel=2e-6)


@pytest.mark.parametrize("n", [5, 20, 50])
def test_leading_is_latent_diffusion_s(n: int, recorded_schedules: dict[str, list[float]]) -> None:
    assert times(schedule("leading", SD, n))[-2::-1] == recorded_schedules[f"ldm.ddim_timesteps_{n}"]


@pytest.mark.parametrize("n", [5, 20, 50])
def test_sgm_uniform_is_generative_models(n: int, recorded_schedules: dict[str, list[float]]) -> None:
    made = schedule("sgm_uniform", SD, n, whole=True)
    assert ratios(made) == pytest.approx(recorded_schedules[f"sgm.legacy_ddpm_{n}"], rel=1e-6)  # float32


@pytest.mark.parametrize(("n", "tokens"), [(20, 256), (28, 4096), (4, 4096), (50, 1024)])
def test_flow_is_flux_dev_s(n: int, tokens: int, recorded_schedules: dict[str, list[float]]) -> None:
    made = schedule("flow", RectifiedFlow(), n, tokens=tokens)
    assert times(made) == pytest.approx(recorded_schedules[f"flux.dev_{n}_seq{tokens}"], abs=2e-7)  # float32


def test_flow_without_shift_is_flux_schnell_s(recorded_schedules: dict[str, list[float]]) -> None:
    assert times(schedule("flow", RectifiedFlow(), 4)) == recorded_schedules["flux.schnell_4_seq4096"]


@pytest.mark.parametrize("n", [4, 28, 50])
@pytest.mark.parametrize("shift", [1, 3])
def test_sd3_is_diffusers(n: int, shift: int, recorded_schedules: dict[str, list[float]]) -> None:
    made = schedule("sd3", RectifiedFlow(shift=float(shift)), n)
    assert times(made)[:-1] == pytest.approx(recorded_schedules[f"sd3.shift{shift}_{n}"][:n], abs=2e-7)  # float32


@pytest.mark.parametrize("n", [1, 7, 20, 48, 61, 80, 96, 121, 250, 999])
def test_trailing_is_diffusers_at_ties_too(n: int) -> None:
    """Of 48 steps four lie between two training steps; numpy's rounding of a sum decides."""
    theirs = DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(n)
    assert times(schedule("trailing", SD, n))[:-1] == theirs.timesteps.tolist()[:n]  # of 61 it counts one too many


def test_trailing_and_simple_count_from_the_end() -> None:
    assert times(schedule("trailing", SD, 4)) == [999.0, 749.0, 499.0, 249.0, 0.0]
    assert times(schedule("trailing", SD, 7))[:3] == [999.0, 856.0, 713.0]  # 1000 - k * 142.86, rounded
    assert times(schedule("simple", SD, 7))[:3] == [999.0, 857.0, 714.0]  # k * 142.86, rounded down
    assert times(schedule("trailing", RectifiedFlow(shift=3.0), 2)) == [1.0, shifted(0.5, 3.0), 0.0]


def test_beta_has_the_quantiles_of_its_distribution() -> None:
    # a = b = 1/2 is the arcsine law, whose quantile is sin(pi p / 2)²; a = b = 1 is uniform.
    arcsine = times(schedule("beta", SD, 8, a=0.5, b=0.5))[:-1]
    assert arcsine == pytest.approx([999 * math.sin(math.pi / 2 * (1 - k / 8)) ** 2 for k in range(8)], abs=1e-9)
    assert times(schedule("beta", SD, 4, a=1.0, b=1.0))[:-1] == pytest.approx([999, 749.25, 499.5, 249.75], abs=1e-9)
    # a = 2, b = 3: the distribution function is 6x² - 8x³ + 3x⁴.
    for k, t in enumerate(times(schedule("beta", SD, 6, a=2.0, b=3.0))[:-1]):
        x = t / 999
        assert 6 * x**2 - 8 * x**3 + 3 * x**4 == pytest.approx(1 - k / 6, abs=1e-12)


def test_align_your_steps_is_the_published_list_at_ten_steps() -> None:
    made = ratios(schedule("align_your_steps", SD, 10, model="sdxl"))
    assert made == pytest.approx([14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0], rel=1e-4)
    twenty = ratios(schedule("align_your_steps", SD, 20))
    assert twenty[1] == pytest.approx(math.sqrt(14.615 * 6.475), rel=1e-9)


def test_kl_optimal_has_linear_arc_tangents() -> None:
    angles = [math.atan(ratio) for ratio in ratios(schedule("kl_optimal", RectifiedFlow(), 9))[:-1]]
    assert angles[0] == math.pi / 2
    steps = [a - b for a, b in pairwise(angles)]
    assert steps == pytest.approx([steps[0]] * 8)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("n", [1, 2, 20])
def test_every_schedule_walks_every_process_down_to_clean(name: str, process: str, n: int) -> None:
    if name in FLOW_ONLY and "flow" not in process:
        with pytest.raises(MaquetteError, match="rectified flow"):
            schedule(name, PROCESSES[process], n)
        return
    made = schedule(name, PROCESSES[process], n)
    assert len(made) == n + 1 and made[-1] == CLEAN
    assert all(level.lam < to.lam for level, to in pairwise(made))
    for level in made[:-1]:
        assert level == PROCESSES[process].at(level.t)
    if name not in {"leading", "align_your_steps"}:  # these begin where their definitions say
        assert made[0] == PROCESSES[process].at(PROCESSES[process].start)


@pytest.mark.parametrize("name", ["trailing", "linspace", "sgm_uniform", "simple"])
def test_as_many_steps_as_were_trained_visit_each_once(name: str) -> None:
    made = times(schedule(name, SD, 1000))[:-1]
    assert made[0] == 999.0 and len(set(made)) == 1000
    if name != "sgm_uniform":
        assert made == pytest.approx(list(range(999, -1, -1)), abs=1e-9)


def test_strength_keeps_the_last_part() -> None:
    made = schedule("trailing", SD, 20)
    assert made.strength(1.0) == made
    assert made.strength(0.5) == made[10:]
    assert len(made.strength(0.01)) == 2 and len(made.strength(0.0)) == 1
    assert made.strength(0.3).process is SD
    with pytest.raises(MaquetteError, match=r"0 \(unchanged\) to 1"):
        made.strength(1.5)


def test_between_is_a_level_of_the_process() -> None:
    made = schedule("karras", SD, 10)
    middle = made.between(made[3], made[4], 0.5)
    assert middle.lam == pytest.approx((made[3].lam + made[4].lam) / 2, abs=1e-12)
    assert middle == SD.at(middle.t)


def test_flux_shift_grows_with_the_picture() -> None:
    assert flux_shift(256) == pytest.approx(math.exp(0.5)) and flux_shift(4096) == pytest.approx(math.exp(1.15))


@pytest.mark.parametrize(
    ("name", "n", "options", "message"),
    [
        ("karas", 10, {}, "does not exist; give one of leading"),
        ("karras", 10, {"rh": 3.0}, "takes rho, sigma_min, sigma_max"),
        ("trailing", 10, {"rho": 3.0}, "takes no options"),
        ("trailing", 0, {}, "at least one"),
        ("trailing", 1200, {}, "does not lower the noise"),
        ("leading", 1000, {}, "offset 0"),
        ("karras", 10, {"sigma_min": 3.0, "sigma_max": 1.0}, "must be positive and smaller"),
        ("align_your_steps", 10, {"model": "sd9"}, "sd1, sdxl, svd"),
        ("align_your_steps", 10, {"model": "svd"}, "does not lower the noise"),
        ("beta", 10, {"a": 0.0}, "must be positive"),
    ],
)
def test_mistakes_say_what_to_do(name: str, n: int, options: dict[str, float | str], message: str) -> None:
    with pytest.raises(MaquetteError, match=message):
        schedule(name, SD, n, **options)
