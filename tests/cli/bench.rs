//! `bench`: what it measures is told in full, for each batch size.

use serde_json::Value;

use super::Desk;

#[test]
fn every_batch_size_is_measured_from_the_smallest_on() {
    let desk = Desk::new();
    let lines = desk.done(
        "bench --preset base --resolution 32 --batch-size 2 1 --gradient-accumulation-steps 2 --steps 2 \
         --mixed_precision bf16 --gradient_checkpointing --json --html bench.html",
    );
    let measured: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let number = |idx: usize, key: &str| measured[idx][key].as_f64().unwrap();
    assert_eq!([number(0, "batch_size"), number(1, "batch_size")], [1.0, 2.0]);
    assert_eq!(number(1, "flops"), 2.0 * number(0, "flops"));
    for (idx, images) in [(0, 2.0), (1, 4.0)] {
        let speed = number(idx, "images_per_second") * number(idx, "step_seconds");
        assert!((speed - images).abs() < 1e-6, "{speed} images in a step");
        assert!((0.0..1.0).contains(&number(idx, "fraction_of_matmul")));
        assert_eq!(measured[idx]["mixed_precision"], "bf16");
        assert_eq!(measured[idx]["gradient_checkpointing"], true);
        for phase in ["data", "encode", "unet", "controlnet", "backward", "optimizer"] {
            assert!(measured[idx]["phases"][phase].as_f64().unwrap() >= 0.0, "{phase}");
        }
    }
    assert!(number(1, "peak_bytes") >= number(0, "peak_bytes"));
    let page = std::fs::read_to_string(desk.path("bench.html")).unwrap();
    assert!(page.contains("Training images per second."));
}

#[test]
fn memory_does_not_grow_from_step_to_step() {
    let desk = Desk::new();
    let line = desk.done("bench --preset base --resolution 32 --steps 400 --json");
    let measured: Value = serde_json::from_str(&line).unwrap();
    let growth = measured["resident_growth"].as_f64().unwrap();
    assert!(growth <= 1.02, "{growth}");
}
