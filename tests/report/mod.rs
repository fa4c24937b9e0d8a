//! Reports of runs, as their readers meet them: the page in a browser, the event files read by other code.

mod event_files;
mod page;

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A caption that would run as a script, end the page's data, or fetch something, if it were not held as text.
const HOSTILE: &str =
    "</script><script>throw 'escaped'</script><img src=x onerror=\"throw 1\"><!-- & \u{2028} 'circle'";

/// The folder of a run of 40 steps, evaluated and validated every 10, in which the hint takes hold at step 20.
///
/// It was killed while it wrote a line.
fn run_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = vec![json!({
        "event": "started", "n_examples": 1000, "batches_per_epoch": 125, "n_epochs": 1, "batch_size": 8,
        "accumulation": 1, "total_steps": 40, "resumed_at": 0, "n_parameters": 1_800_000,
    })];
    for step in 0..=40_u32 {
        if step > 0 {
            lines.push(json!({
                "event": "progress", "step": step, "total_steps": 40, "epoch": 0, "loss": 1.0 / f64::from(step),
                "lr": 1e-5, "grad_norm": 0.5, "images_per_second": 12.5, "memory_bytes": 1_500_000_000_u64,
                "seconds": f64::from(step) * 1.5,
            }));
        }
        if step % 10 == 0 {
            lines.push(evaluation(step));
            lines.push(validation(dir.path(), step));
        }
        if step == 20 {
            lines.push(json!({ "event": "took_hold", "step": step }));
        }
    }
    let mut metrics: String = lines.iter().map(|line| format!("{line}\n")).collect();
    metrics.push_str("{\"event\":\"progr");
    fs::write(dir.path().join("metrics.jsonl"), metrics).unwrap();
    dir
}

fn evaluation(step: u32) -> Value {
    let gap = if step < 20 { 0.0 } else { 0.03 };
    let bins: Vec<Value> = (0..4)
        .map(|idx| json!({ "first": 250 * idx, "last": 250 * idx + 249, "loss": 0.1, "shuffled_loss": 0.1 + gap }))
        .collect();
    let zero_convs: Vec<Value> = ["down 0", "down 1", HOSTILE]
        .iter()
        .map(|name| json!({ "name": name, "weight_norm": f64::from(step) / 40.0, "residual_rms": 0.001 }))
        .collect();
    json!({
        "event": "evaluation", "step": step, "n_samples": 16, "is_held_out": true, "loss": 0.1, "bins": bins,
        "shuffled_loss": 0.1 + gap, "control_gap": gap, "control_gap_error": 0.001, "zero_convs": zero_convs,
    })
}

/// Draws two pairs; only what the model draws changes from step to step.
fn validation(run_dir: &Path, step: u32) -> Value {
    let dir = run_dir.join(format!("validation/step-{step:06}"));
    fs::create_dir_all(&dir).unwrap();
    let shade = u8::try_from(step).unwrap();
    for pair_idx in 0..2 {
        let pictures =
            [("hint", [0, 0, 0]), ("target", [250, 0, pair_idx]), ("image-0", [shade, 250, pair_idx])];
        for (name, color) in pictures {
            let picture = RgbImage::from_pixel(16, 16, Rgb(color));
            picture.save(dir.join(format!("pair-{pair_idx}-{name}.png"))).unwrap();
        }
    }
    json!({ "event": "validation", "step": step, "grid": dir.join("grid.png"), "prompts": [HOSTILE, "a cat"] })
}
