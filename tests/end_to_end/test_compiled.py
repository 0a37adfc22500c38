"""Runs whose blocks are compiled end as those whose are not."""

import torch


def test_a_compiled_run_ends_with_the_same_weights(unlearn):
    """aot_eager runs the traced operations themselves, so that the losses agree to rounding."""
    options = {"bound": 9, "max_steps": 3, "learning_rate": 1e-3, "max_new_tokens": 3, "warmup_steps": 0}
    plain = unlearn(**options)
    compiled = unlearn("--torch_compile", torch_compile_backend="aot_eager", **options)
    assert compiled.status == plain.status
    for name, weight in compiled.weights.items():
        torch.testing.assert_close(weight, plain.weights[name], rtol=1e-4, atol=1e-5, msg=name)
    assert [record["step"] for record in compiled.steps] == [1, 2, 3]
    assert (compiled.folder / "config.yaml").read_text(encoding="utf-8").count("torch_compile: true") == 1


def test_an_unknown_backend_is_wrong_input_before_anything_is_written(unlearn, tmp_path):
    outcome = unlearn("--torch_compile", torch_compile_backend="fast", output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith("error: --torch_compile_backend is 'fast'; expected one of ")
    assert not (tmp_path / "run").exists()
