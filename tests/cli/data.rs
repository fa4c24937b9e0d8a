//! `pyrograph data`, and what training makes of it.

use std::fs;

use expect_test::expect;
use pyrograph_data::{CannyThresholds, canny, decode_rgb8};

use super::{Desk, TRAIN, names};

/// A folder with the pictures and captions of the circles, and nothing else.
fn photos(desk: &Desk) {
    let metadata = fs::read_to_string(desk.path("circles/train/metadata.jsonl")).unwrap();
    for line in metadata.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = row["file_name"].as_str().unwrap();
        let stem = name.trim_start_matches("images/").trim_end_matches(".png");
        fs::create_dir_all(desk.path("photos")).unwrap();
        fs::copy(desk.path("circles/train").join(name), desk.path(&format!("photos/{stem}.png"))).unwrap();
        fs::write(desk.path(&format!("photos/{stem}.txt")), row["text"].as_str().unwrap()).unwrap();
    }
}

#[test]
fn hints_of_a_folder_are_made_ahead() {
    let desk = Desk::new();
    photos(&desk);
    desk.done("data hint canny photos edges");
    assert_eq!(names(&desk.path("edges")), ["00000.png", "00001.png", "00002.png", "00003.png", "00004.png"]);
    let [picture, hint] =
        ["photos", "edges"].map(|dir| decode_rgb8(&desk.path(dir).join("00002.png")).unwrap());
    let edges = canny(&picture, CannyThresholds::default());
    assert!(edges.contains(&true));
    assert_eq!(hint.pixels().map(|pixel| pixel.0[0] == 255).collect::<Vec<_>>(), edges);

    fs::write(desk.path("photos/broken.png"), "no picture").unwrap();
    let finished = desk.run("data hint canny photos edges");
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("photos/broken.png"), "{}", finished.stderr);
    assert!(finished.stderr.ends_with("error: 1 of 6 hints could not be made\n"), "{}", finished.stderr);
    desk.refuses(
        "data hint sketch photos sketches",
        expect![[r#"
            error: invalid value 'sketch' for '<HINT>': there is no hint `sketch`; hints are canny[:LOW,HIGH], random_canny, soft_edge[:SIGMA], scribble[:THRESHOLD,THICKNESS], random_scribble, tile[:FACTOR], blur[:SIGMA], colors[:CELL], grey, inpaint[:rectangles|strokes|outpaint]

            For more information, try '--help'.
        "#]],
    );
}

#[test]
fn hints_are_made_while_training_and_another_hint_is_another_run() {
    let desk = Desk::new();
    photos(&desk);
    let train = format!("{TRAIN} --train_data_dir=photos --train_batch_size=2 --checkpointing_steps=2");
    // Drawn thresholds, in an epoch of three batches: what is stopped is continued with the same draws.
    desk.done(&format!("{train} --hint=canny:10..90,100..200 --max_train_steps=5"));
    let whole = fs::read(desk.path("out/diffusion_pytorch_model.safetensors")).unwrap();
    fs::remove_dir_all(desk.path("out/checkpoint-4")).unwrap();
    desk.done(&format!(
        "{train} --hint=canny:10..90,100..200 --max_train_steps=5 --resume_from_checkpoint=latest"
    ));
    assert_eq!(fs::read(desk.path("out/diffusion_pytorch_model.safetensors")).unwrap(), whole);

    let finished =
        desk.run(&format!("{train} --hint=grey --max_train_steps=6 --resume_from_checkpoint=latest"));
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("`hint` was canny:10..90,100..200 and is grey"), "{}", finished.stderr);
    // Without hints, made or read, the folder is no data set.
    assert_eq!(desk.run(&format!("{train} --max_train_steps=1")).code, Some(2));
}

#[test]
fn buckets_and_mirrors_survive_a_resume_and_are_part_of_the_run() {
    let desk = Desk::new();
    photos(&desk);
    for (place, size) in [(48, 32), (32, 48), (32, 32), (48, 32), (64, 24)].into_iter().enumerate() {
        let path = desk.path(&format!("photos/{place:05}.png"));
        decode_rgb8(&path)
            .map(|picture| image::imageops::resize(&picture, size.0, size.1, image::imageops::Nearest))
            .unwrap()
            .save(path)
            .unwrap();
    }
    let common =
        format!("{TRAIN} --train_data_dir=photos --hint=canny --train_batch_size=2 --checkpointing_steps=3");
    let train = format!("{common} --aspect_buckets --bucket_reso_steps=8 --random_flip");
    desk.done(&format!("{train} --max_train_steps=9"));
    let whole = fs::read(desk.path("out/diffusion_pytorch_model.safetensors")).unwrap();
    for step in [6, 9] {
        fs::remove_dir_all(desk.path(&format!("out/checkpoint-{step}"))).unwrap();
    }
    desk.done(&format!("{train} --max_train_steps=9 --resume_from_checkpoint=latest"));
    assert_eq!(fs::read(desk.path("out/diffusion_pytorch_model.safetensors")).unwrap(), whole);

    let finished = desk.run(&format!("{common} --max_train_steps=12 --resume_from_checkpoint=latest"));
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("`aspect buckets` was steps of 8 px and is none"),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("`random_flip` was true and is false"), "{}", finished.stderr);
    // A crop that is drawn trains, too, and keeps no latents of it.
    desk.done(&format!("{common} --random_crop --max_train_steps=2 --cache=memory"));
}
