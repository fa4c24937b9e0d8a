//! `pyrograph data`, and what training makes of it.

use std::fs;

use expect_test::expect;
use image::{Rgb, RgbImage, imageops};
use pyrograph_data::{CannyThresholds, Scene, SceneOptions, Side, canny, decode_rgb8};

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

/// A folder of eight good pairs and one of each fault.
fn faulty(desk: &Desk) {
    let write = |name: &str, picture: &RgbImage| {
        let path = desk.path("faulty").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture.save(path).unwrap();
    };
    let mut rows = Vec::new();
    let mut row = |image: &str, hint: &str, text: &str| {
        rows.push(serde_json::json!({"image": image, "conditioning_image": hint, "text": text}).to_string());
    };
    let picture =
        |seed: u64| Scene::draw(seed, 0, &SceneOptions::default()).picture(Side::try_from(96).unwrap());
    let edges = |picture: &RgbImage| {
        let mut edges = canny(picture, CannyThresholds::default()).into_iter();
        RgbImage::from_fn(picture.width(), picture.height(), |_, _| {
            Rgb([if edges.next().unwrap() { 255 } else { 0 }; 3])
        })
    };
    for seed in 0..8 {
        let picture = picture(seed);
        write(&format!("good-{seed}.png"), &picture);
        write(&format!("good-{seed}-hint.png"), &edges(&picture));
        row(&format!("good-{seed}.png"), &format!("good-{seed}-hint.png"), "a figure");
    }
    let names = [
        "truncated",
        "shape",
        "blank",
        "blank-hint",
        "same",
        "shifted",
        "mirrored",
        "smaller",
        "size",
        "empty",
        "long",
    ];
    for (seed, name) in (20..).zip(names) {
        let picture = if name == "smaller" { picture(3) } else { picture(seed) };
        write(&format!("{name}.png"), &picture);
        write(&format!("{name}-hint.png"), &edges(&picture));
        let text = match name {
            "empty" => " ".to_owned(),
            "long" => "one more word ".repeat(40),
            _ => "a figure".to_owned(),
        };
        row(&format!("{name}.png"), &format!("{name}-hint.png"), &text);
    }
    let hint = |name: &str| decode_rgb8(&desk.path("faulty").join(format!("{name}-hint.png"))).unwrap();
    let bytes = fs::read(desk.path("faulty/truncated.png")).unwrap();
    desk.write("faulty/truncated.png", &bytes[..bytes.len() / 2]);
    desk.write("faulty/note.png", "no picture");
    row("good-0.png", "note.png", "a hint that is none");
    write("shape-hint.png", &imageops::resize(&hint("shape"), 96, 48, imageops::Nearest));
    write("blank.png", &RgbImage::from_pixel(96, 96, Rgb([9; 3])));
    write("blank-hint-hint.png", &RgbImage::new(96, 96));
    write("same-hint.png", &picture(24));
    let shifted = |hint: &RgbImage| RgbImage::from_fn(96, 96, |x, y| *hint.get_pixel(x.saturating_sub(5), y));
    write("shifted-hint.png", &shifted(&hint("shifted")));
    write("mirrored-hint.png", &imageops::flip_horizontal(&hint("mirrored")));
    write("smaller.png", &imageops::resize(&picture(3), 72, 72, imageops::Triangle));
    write("smaller-hint.png", &edges(&imageops::resize(&picture(3), 72, 72, imageops::Triangle)));
    write("size-hint.png", &imageops::resize(&hint("size"), 192, 192, imageops::Nearest));
    row("good-1.png", "good-1-hint.png", "the same pair");
    row("good-2.png", "good-3-hint.png", "another hint");
    row("gone.png", "good-1-hint.png", "no such file");
    row("../secret.png", "good-1-hint.png", "out of the folder");
    rows.push("{not json".to_owned());
    rows.push(r#"{"image": "good-4.png", "text": "no hint"}"#.to_owned());
    desk.write("faulty/metadata.jsonl", rows.join("\n"));
}

#[test]
fn every_fault_of_a_data_set_is_named_and_training_leaves_it_out() {
    let desk = Desk::new();
    faulty(&desk);
    let before = super::files(&desk.path("faulty"));
    let check = "data check faulty --resolution=96 --tokenizer_name=base/tokenizer";
    let finished = desk.run(&format!("{check} --sheet=sheet.png --quarantine=bad.txt"));
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    expect![[r#"
        26 rows, 13 with a fault

        faults
          blank hints: 1
            blank-hint.png
          blank images: 1
            blank.png
          hints of another shape than their image: 1
            shape.png: the image is 96x96 px and its hint 96x48 px
          hints that are their image: 1
            same.png
          hints that cannot be read: 1
            good-0.png#2: hint: cannot decode `note.png`: The image format could not be determined
          hints that lie elsewhere: 2
            shifted.png: the hint is shifted by 5 px to the right and 0 px down
            mirrored.png: the hint is mirrored, left to right
          images that cannot be read: 1
            truncated.png: image: cannot decode `truncated.png`: unexpected end of file
          pairs that are there already: 1
            good-1.png#2: the pair of good-1.png
          rows that are no sample: 4
            metadata.jsonl:23: `gone.png` does not exist or is not a file
            metadata.jsonl:24: path `../secret.png` contains `..`
            metadata.jsonl:25: expected one JSON object per line: key must be a string at line 1 column 2
            metadata.jsonl:26: --conditioning_image_column value 'conditioning_image' not found in dataset columns. Dataset columns are: image, text

        worth knowing
          captions that are cut: 2
            long.png: tokens of the caption that are cut off: 426
            good-0.png#2: tokens of the caption that are cut off: 1
          empty captions: 1
            empty.png
          hints of another size than their image: 1
            size.png: the image is 96x96 px and its hint 192x192 px
          hints that are there already, with another image: 1
            good-2.png#2: the hint of good-3.png
          images that are there already, with another hint: 2
            good-0.png#2: the image of good-0.png
            good-2.png#2: the image of good-2.png
          images that look like another: 1
            smaller.png: looks like good-3.png

        captions: 22, 27.1 tokens on average, 440 at most, 1 empty, 2 cut off
        images without colours: 4.8 %
    "#]].assert_eq(&finished.stdout);
    assert!(finished.stderr.ends_with("rows have a fault\n"), "{}", finished.stderr);
    assert_eq!(super::files(&desk.path("faulty")), before, "nothing is changed");
    assert!(decode_rgb8(&desk.path("sheet.png")).unwrap().height() > 300);
    let json: serde_json::Value = serde_json::from_str(&desk.run(&format!("{check} --json")).stdout).unwrap();
    assert_eq!(json["n_rows"], 26);

    // Training stops at the first of them, unless they are left out.
    let train = format!("{TRAIN} --train_data_dir=faulty --max_train_steps=1 --num_eval_samples=0");
    assert_eq!(desk.run(&train).code, Some(2));
    let finished = desk.run(&format!("{train} --quarantine=bad.txt"));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    fs::copy(desk.path("bad.txt"), desk.path("faulty/quarantine.txt")).unwrap();
    fs::remove_dir_all(desk.path("out")).unwrap();
    let finished = desk.run(&train);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("rows are left out: faulty/quarantine.txt"), "{}", finished.stderr);
    assert!(finished.stderr.contains("Num examples = 13\n"), "{}", finished.stderr);
}

#[test]
fn a_clean_data_set_has_no_fault_and_its_numbers_are_told() {
    let desk = Desk::new();
    let finished = desk.run("data check circles");
    assert_eq!(finished.code, Some(0), "{}", finished.stdout);
    expect![[r#"
        samples: 5

        sizes of images
          32x32                    5

        shapes, width : height
          1 : 1                    5

        buckets
          64x64                    5

        words of captions
          0 to 9                   5

        words
          background               5
          circle                   5
          with                     5
          medium                   2
          smoke                    2
          white                    2
          blue                     1
          drab                     1
          green                    1
          olive                    1
          orange                   1
          orchid                   1
          and 3 more

        captions: 5, 6.8 words on average, 8 at most, 0 empty
    "#]]
    .assert_eq(&desk.done("data stats circles --resolution=64"));
}

#[test]
fn a_data_set_that_was_packed_trains_as_the_folder_it_was_made_of() {
    let desk = Desk::new();
    let metadata = fs::read_to_string(desk.path("circles/train/metadata.jsonl")).unwrap();
    desk.write("circles/train/metadata.jsonl", metadata + "no row\n");
    assert_eq!(desk.run("data build circles packed").code, Some(2));
    assert!(!desk.path("packed").exists());

    desk.write("circles/quarantine.txt", "train/metadata.jsonl:6\tno JSON\n");
    desk.done("data build circles packed");
    desk.done("data build circles archives --format=tar --shard_size=1B");
    let shards = names(&desk.path("archives/data"));
    assert_eq!((shards.len(), shards[0].as_str()), (5, "train-00000-of-00005.tar"));
    desk.refuses(
        "data build circles archives",
        expect![[r#"
             INFO 1 rows are left out: circles/quarantine.txt
            error: `archives` already exists and is not an empty folder

            hint: give a folder that does not exist yet
        "#]],
    );
    for data in ["packed", "archives"] {
        let finished = desk.run(&format!("data check {data} --resolution=32"));
        assert_eq!(finished.code, Some(0), "{}", finished.stdout);
        let train = format!("{TRAIN} --train_data_dir={data} --max_train_steps=2 --num_eval_samples=0");
        let finished = desk.run(&train);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(finished.stderr.contains("Num examples = 5\n"), "{}", finished.stderr);
        fs::remove_dir_all(desk.path("out")).unwrap();
    }
}
