//! Training on data sets as people have them, by the flags that people type.

use std::fs;

use super::{Desk, TRAIN, names};

fn layouts() -> String {
    crate::fixtures().join("layouts").display().to_string()
}

#[test]
fn a_run_takes_any_layout_listed_or_as_a_stream() {
    let desk = Desk::new();
    let run = |data: &str, flags: &str| {
        let size = "--train_batch_size=2 --max_train_steps=4";
        desk.done(&format!("{TRAIN} {data} {size} {flags}"));
        assert!(desk.path("out/diffusion_pytorch_model.safetensors").is_file(), "{data} {flags}");
        fs::remove_dir_all(desk.path("out")).unwrap();
    };
    let layouts = layouts();
    run(&format!("--dataset_name={layouts}/parquet"), "");
    run(&format!("--dataset_name={layouts}/parquet"), "--streaming --shuffle_buffer=3");
    run(&format!("--train_data_dir={layouts}/arrow-dict"), "--streaming --max_train_samples=3");
    run(&format!("--train_data_dir={layouts}/webdataset-json.tar"), "");
    run(&format!("--dataset_name={layouts} --dataset_config_name=fill50k-script"), "");
    run(&format!("--train_data_dir={layouts}/kohya/img --conditioning_data_dir={layouts}/kohya/cond"), "");
    // Only the listed Parquet was unpacked: one archive for each of its files.
    assert_eq!(names(&desk.path("caches/pyrograph/unpacked")).len(), 2);
}
