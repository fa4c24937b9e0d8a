//! `eval`: how well what a ControlNet draws keeps to its hints.

use expect_test::expect;
use serde_json::Value;

use super::Desk;

const EVAL: &str = "eval --base=base --controlnet=controlnet --data=circles --resolution=32 \
                    --num_inference_steps=2";

fn json(desk: &Desk, flags: &str) -> Value {
    let stdout = desk.done(&format!("{EVAL} --num_samples=4 --json {flags}"));
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn outlines_are_judged_by_figure_and_colors() {
    let report = json(&Desk::new(), "");
    assert_eq!((&report["n_samples"], &report["kind"]), (&Value::from(4), &Value::from("outline")));
    let figures = [
        ("mean_iou", 1.0),
        ("figure_color_error", 442.0),
        ("ground_color_error", 442.0),
        ("color_accuracy", 1.0),
    ];
    for (figure, largest) in figures {
        let value = report[figure].as_f64().unwrap();
        assert!((0.0..=largest).contains(&value), "{figure}: {value}");
    }
}

#[test]
fn edges_are_judged_by_precision_and_recall() {
    let report = json(&Desk::new(), "--kind=canny");
    assert_eq!(report["kind"], "canny");
    for figure in ["precision", "recall", "f1"] {
        let value = report[figure].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{figure}: {value}");
    }
}

#[test]
fn a_seed_gives_equal_numbers_whatever_is_drawn_together() {
    let desk = Desk::new();
    let first = json(&desk, "--seed=5");
    assert_eq!(json(&desk, "--seed=5"), first);
    let in_two_batches = json(&desk, "--seed=5 --batch_size=3");
    for figure in ["mean_iou", "figure_color_error"] {
        let apart = (in_two_batches[figure].as_f64().unwrap() - first[figure].as_f64().unwrap()).abs();
        assert!(apart < 0.05, "{figure}: {in_two_batches} and {first}");
    }
}

#[test]
fn without_control_the_hint_is_not_seen() {
    let desk = Desk::new();
    let drawn = |flags: &str| {
        desk.done(&format!("{EVAL} --num_samples=4 --grid=grid.png {flags}"));
        image::open(desk.path("grid.png")).unwrap().into_rgb8()
    };
    let (with, without) = (drawn(""), drawn("--without-control"));
    // Four rows of hint, target and drawn picture, with 4 px between them.
    assert_eq!(with.dimensions(), (4 + 3 * 36, 4 + 4 * 36));
    let column = |grid: &image::RgbImage, idx: u32| {
        image::imageops::crop_imm(grid, idx * 36, 0, 36, grid.height()).to_image()
    };
    assert!([0, 1].iter().all(|&idx| column(&with, idx) == column(&without, idx)));
    assert!(column(&with, 2) != column(&without, 2));
}

#[test]
fn a_data_set_may_be_smaller_than_what_was_asked_for() {
    let desk = Desk::new();
    let table = desk.done(EVAL);
    let names: Vec<&str> = table.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert!(table.starts_with("pictures                 5\n"), "{table}");
    assert_eq!(
        names,
        [
            "pictures",
            "intersection over union",
            "figure's colour error",
            "ground's colour error",
            "both colours right"
        ]
    );
}

#[test]
fn a_control_net_of_another_base_is_refused() {
    let desk = Desk::new();
    desk.done("init-base --preset tiny other");
    desk.refuses(
        &EVAL.replace("--base=base", "--base=other"),
        expect![[r#"
            error: the UNet and the ControlNet do not belong together: `cross_attention_dim` is 64 and 12

            hint: use a ControlNet that was trained for this base model
        "#]],
    );
}

#[test]
fn data_that_is_not_there_is_refused() {
    Desk::new().refuses(
        &EVAL.replace("--data=circles", "--data=squares"),
        expect![[r#"
            error: cannot read `squares`
              caused by: No such file or directory (os error 2)

            hint: check the path; it starts at the current folder
        "#]],
    );
}

#[test]
fn a_side_that_eight_does_not_divide_is_refused() {
    Desk::new().refuses(
        &EVAL.replace("--resolution=32", "--resolution=30"),
        expect![[r#"
            error: 30 px is not a positive multiple of 8 up to 16384

            hint: use 24 or 32
        "#]],
    );
}

#[test]
fn a_grid_in_a_folder_that_is_not_there_is_refused_before_anything_is_drawn() {
    Desk::new().refuses(
        &format!("{EVAL} --grid=nowhere/grid.png"),
        expect![[r#"
            error: cannot write `nowhere/grid.png`: there is no such folder

            hint: make the folder first
        "#]],
    );
}
