//! Data sets that cannot be trained on.

use std::fs;

use expect_test::{Expect, expect};

use super::{Desk, TRAIN, names};

const IMAGES: &str = "circles/train/images";
const HINTS: &str = "circles/train/conditioning_images";

/// Asserts the message for a data set that `spoil` has changed, with more flags.
#[track_caller]
fn check(spoil: impl FnOnce(&Desk), flags: &str, message: Expect) {
    let desk = Desk::new();
    spoil(&desk);
    desk.refuses(&format!("{TRAIN} --train_data_dir=circles {flags}"), message);
}

/// Turns the circles into two folders of images with captions beside them.
fn into_paired_folders(desk: &Desk) {
    fs::remove_file(desk.path("circles/train/metadata.jsonl")).unwrap();
    for name in names(&desk.path(IMAGES)) {
        desk.write(&format!("{IMAGES}/{}", name.replace(".png", ".txt")), "a circle");
    }
}

fn remove(desk: &Desk, name: &str) {
    fs::remove_file(desk.path(name)).unwrap();
}

#[test]
fn a_missing_folder_is_named() {
    Desk::new().refuses(
        &format!("{TRAIN} --train_data_dir=squares"),
        expect![[r#"
            error: cannot read the training data
              caused by: cannot read `squares`
              caused by: No such file or directory (os error 2)

            hint: check the path; it starts at the current folder
        "#]],
    );
}

#[test]
fn a_folder_of_no_known_layout_is_refused_with_the_known_ones() {
    Desk::new().refuses(&format!("{TRAIN} --train_data_dir=base"), expect![[r#"
        error: cannot read the training data
          caused by: `DESK/base` is not a data set this program can read

        hint: a data set is a folder with `metadata.jsonl`, `.csv` or `.parquet` (also in `train/`), with fill50k's `prompt.json`, with Parquet files, webdataset tar archives or what `save_to_disk` wrote, with two folders `images` and `conditioning_images` of equally named files and `.txt` captions, or one of these files itself; images and hints in two places are given as `--train_data_dir` and `--conditioning_data_dir`
    "#]]);
}

#[test]
fn a_missing_column_is_named_with_those_that_are_there() {
    check(
        |_| {},
        "--image_column=nope",
        expect![[r#"
            error: cannot read the training data
              caused by: cannot use row DESK/circles/train/metadata.jsonl:1
              caused by: --image_column value 'nope' not found in dataset columns. Dataset columns are: conditioning_image, image, text

            hint: give one of those columns as `--image_column`
        "#]],
    );
    check(
        |_| {},
        "--conditioning_image_column=conditioning",
        expect![[r#"
            error: cannot read the training data
              caused by: cannot use row DESK/circles/train/metadata.jsonl:1
              caused by: --conditioning_image_column value 'conditioning' not found in dataset columns. Dataset columns are: conditioning_image, image, text

            hint: did you mean `--conditioning_image_column conditioning_image`?
        "#]],
    );
}

#[test]
fn a_row_with_a_missing_file_is_named() {
    check(
        |desk| remove(desk, &format!("{HINTS}/00002.png")),
        "",
        expect![[r#"
            error: cannot read the training data
              caused by: cannot use row DESK/circles/train/metadata.jsonl:3
              caused by: `DESK/circles/train/conditioning_images/00002.png` does not exist or is not a file

            hint: restore the file or remove its row
        "#]],
    );
}

#[test]
fn images_without_hints_and_hints_without_images_are_all_named() {
    let spoil = |desk: &Desk| {
        into_paired_folders(desk);
        remove(desk, &format!("{IMAGES}/00001.png"));
        remove(desk, &format!("{HINTS}/00003.png"));
        remove(desk, &format!("{HINTS}/00004.png"));
    };
    check(
        spoil,
        "",
        expect![[r#"
            error: cannot read the training data
              caused by: images and hints do not pair up; 2 image(s) without a hint: 00003, 00004; 1 hint(s) without an image: 00001

            hint: an image and its hint have the same name up to the last dot
        "#]],
    );
}

#[test]
fn more_samples_than_there_are_cannot_be_asked_for() {
    check(
        |_| {},
        "--max_train_samples=6",
        expect![[r#"
            error: cannot read the training data
              caused by: 6 samples were asked for, the data set has 5

            hint: lower `--max_train_samples` or leave it out
        "#]],
    );
}

/// An image is first decoded in training: the message names it, and the last checkpoint stays.
#[test]
fn an_unreadable_image_ends_the_run_and_keeps_the_last_checkpoint() {
    let desk = Desk::new();
    let train = format!("{TRAIN} --train_data_dir=circles --train_batch_size=1 --checkpointing_steps=1");
    desk.done(&format!("{train} --max_train_steps=1"));
    let checkpoint = super::files(&desk.path("out/checkpoint-1"));

    for name in names(&desk.path(IMAGES)) {
        let path = desk.path(&format!("{IMAGES}/{name}"));
        let png = fs::read(&path).unwrap();
        fs::write(path, &png[..png.len() / 2]).unwrap();
    }
    let resumed = desk
        .run(&format!("{train} --max_train_steps=9 --resume_from_checkpoint=latest --force_resume --quiet"));
    expect![[r#"
        error: cannot read the training data
          caused by: 2 of 5 samples cannot be used, 1 may be left out
          caused by: cannot use row DESK/circles/train/metadata.jsonl:4
          caused by: cannot decode `DESK/circles/train/images/00003.png`
          caused by: unexpected end of file

        hint: `pyrograph data check` lists all that is wrong; `--max_bad_samples` sets how many may be left out
    "#]]
    .assert_eq(&resumed.stderr);
    assert_eq!(resumed.code, Some(2));
    assert_eq!(super::files(&desk.path("out/checkpoint-1")), checkpoint);
    desk.done("inspect out/checkpoint-1/controlnet");
}
