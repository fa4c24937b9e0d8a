//! A disk that is full, gone or read-only for a while.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use pyrograph_train::{Checkpoint, Event, RunEnd, Stop};

use super::disk::{Fate, FaultyDisk, Kind};
use super::{Bench, Watch, metrics};

/// Runs three steps on a disk that refuses some operations on the first checkpoints; returns the warnings.
fn check(
    bench: &Bench,
    out: &str,
    refuses: impl Fn(usize, Kind, &Path) -> Option<ErrorKind> + Send + Sync + 'static,
) -> Vec<String> {
    let disk = FaultyDisk::new(&Stop::default(), move |number, kind, path| {
        refuses(number, kind, path).map_or(Fate::Done, Fate::Fails)
    });
    let mut watch = Watch::new(|_| {});
    let end = bench.trainer(out, 3, |_| {}).unwrap().on_disk(disk).run(&mut watch);
    assert_eq!(end.unwrap(), RunEnd::Finished, "{:?}", watch.warnings());
    assert_eq!(Checkpoint::latest(&bench.out(out)).unwrap().position().optimizer_step, 3);
    watch.warnings().into_iter().map(str::to_owned).collect()
}

/// Whether a path is inside of the checkpoint that is being written.
fn is_in(path: &Path, step: u64) -> bool {
    path.components().any(|part| part.as_os_str() == format!(".checkpoint-{step}.incomplete").as_str())
}

#[test]
fn a_full_disk_at_any_write_of_a_save_costs_that_checkpoint_and_nothing_else() {
    let bench = Bench::new();
    check(&bench, "straight", |_, _, _| None);
    let expected = bench.result("straight", 3);
    let healthy = FaultyDisk::new(&Stop::default(), |_, _, _| Fate::Done);
    bench.trainer("healthy", 3, |_| {}).unwrap().on_disk(Arc::clone(&healthy) as _).run(&mut ()).unwrap();
    let of_the_save: Vec<usize> = (1..)
        .zip(healthy.operations())
        .filter(|(_, (kind, path))| {
            is_in(path, 2) && matches!(kind, Kind::CreateDir | Kind::Create | Kind::Write | Kind::SyncFile)
        })
        .map(|(number, _)| number)
        .collect();
    assert!(of_the_save.len() > 12, "{of_the_save:?}");
    for failing in of_the_save {
        let out = format!("full-{failing}");
        let warnings = check(&bench, &out, move |number, kind, _| {
            (number == failing && kind != Kind::Remove).then_some(ErrorKind::StorageFull)
        });
        let [warning] = warnings.as_slice() else { panic!("operation {failing}: {warnings:?}") };
        for part in ["training goes on: cannot save `", "checkpoint-2`: it needs 7 MB, 13 MB are free: "] {
            assert!(warning.contains(part), "operation {failing}: {warning}");
        }
        let dir = bench.out(&out);
        assert!(
            !dir.join("checkpoint-2").exists() && dir.join("checkpoint-1").is_dir(),
            "operation {failing}"
        );
        assert!(!dir.join(".checkpoint-2.incomplete").exists(), "the space is given back");
        assert!(bench.result(&out, 3) == expected, "operation {failing}: other numbers");
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn a_disk_that_cannot_be_written_for_a_while_costs_no_step_and_no_line() {
    let bench = Bench::new();
    check(&bench, "straight", |_, _, _| None);
    for (name, kind) in [("gone", ErrorKind::NotFound), ("read-only", ErrorKind::ReadOnlyFilesystem)] {
        // From the second step on until its checkpoint was tried.
        let warnings = check(&bench, name, move |_, _, path| is_in(path, 2).then_some(kind));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(bench.result(name, 3) == bench.result("straight", 3));
    }
    // The metrics alone, whose lines wait for a better time.
    let lines = |out: &str| -> Vec<_> {
        metrics(&bench.out(out)).into_iter().filter(|line| line["event"] != "warning").collect()
    };
    let warnings = check(&bench, "metrics", |number, kind, path| {
        let is_metrics = path.ends_with("metrics.jsonl") && matches!(kind, Kind::Create | Kind::Write);
        (is_metrics && (8..90).contains(&number)).then_some(ErrorKind::StorageFull)
    });
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(lines("metrics"), lines("straight"));
}

#[test]
fn pictures_that_cannot_be_written_are_warned_of() {
    let bench = Bench::new();
    fs::create_dir_all(bench.out("out")).unwrap();
    fs::write(bench.out("out/validation"), "a file in the way").unwrap();
    let mut watch = Watch::new(|_| {});
    let trainer = bench.trainer("out", 1, |config| {
        config.evaluation.num_eval_samples = 2;
        config.validation.num_validation_samples = 1;
        config.validation.num_validation_images = 1.try_into().unwrap();
        config.validation.validation_inference_steps = 1.try_into().unwrap();
    });
    assert_eq!(trainer.unwrap().run(&mut watch).unwrap(), RunEnd::Finished);
    let is_told = |warning: &&&str| warning.starts_with("training goes on: cannot access `");
    assert_eq!(watch.warnings().iter().filter(is_told).count(), 2, "{:?}", watch.warnings());
    assert!(matches!(watch.events.last(), Some(Event::Finished { .. })));
}

#[test]
fn a_save_that_would_not_fit_is_not_begun_and_the_next_one_is_tried() {
    let bench = Bench::new();
    let disk = FaultyDisk::new(&Stop::default(), |_, _, _| Fate::Done);
    let at_the_second_step = Arc::clone(&disk);
    let mut watch = Watch::new(move |event| {
        if let Event::Progress(progress) = event {
            at_the_second_step.set_free(if progress.step == 2 { 2_900_000 } else { 12_000_000 });
        }
    });
    let end = bench.trainer("out", 3, |_| {}).unwrap().on_disk(Arc::clone(&disk) as _).run(&mut watch);
    assert_eq!(end.unwrap(), RunEnd::Finished);
    let [warning] = watch.warnings()[..] else { panic!("{:?}", watch.warnings()) };
    for part in ["training goes on: cannot save `", "checkpoint-2`: it needs 7 MB, 3 MB are free: "] {
        assert!(warning.contains(part), "{warning}");
    }
    assert!(!disk.operations().iter().any(|(_, path)| is_in(path, 2)), "nothing of it was written");
    assert_eq!(Checkpoint::latest(&bench.out("out")).unwrap().position().optimizer_step, 3);
}
