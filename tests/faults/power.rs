//! A process that dies, or a machine that loses its power, at every single operation of a save.

use std::fs;
use std::sync::Arc;

use pyrograph_train::{Checkpoint, Condition, Stop, Thoroughness, list_checkpoints};

use super::disk::{Fate, FaultyDisk, Kind};
use super::{Bench, latest};
use crate::cli::copy;

/// Only the newest checkpoint is kept, so that each save also deletes one.
fn keep_one(config: &mut pyrograph_train::TrainConfig) {
    latest(config);
    config.checkpoint.checkpoints_total_limit = Some(1.try_into().unwrap());
}

/// Makes the step from checkpoint 1 to 2 once for each operation, which has this fate; what is left must have a verified
/// checkpoint at every instant, and must be continued to the bits of a run that nothing happened to.
fn check(fate: Fate) -> usize {
    let bench = Bench::new();
    bench.run("first", 1, keep_one);
    let begun = |name: &str| {
        let _ = fs::remove_dir_all(bench.out(name));
        copy(&bench.out("first"), &bench.out(name));
    };
    // The length of the run is another than that of the first, and with it the learning rates.
    begun("straight");
    let healthy = FaultyDisk::new(&Stop::default(), |_, _, _| Fate::Done);
    bench.trainer("straight", 2, keep_one).unwrap().on_disk(healthy.clone()).run(&mut ()).unwrap();
    let expected = bench.result("straight", 2);
    let operations = healthy.operations();
    for kind in [
        Kind::CreateDir,
        Kind::Create,
        Kind::Write,
        Kind::SyncFile,
        Kind::Rename,
        Kind::SyncDir,
        Kind::Remove,
    ] {
        assert!(operations.iter().any(|(other, _)| *other == kind), "{kind:?} is among them");
    }

    for (number, (kind, path)) in (1..).zip(&operations) {
        let what = format!("{fate:?} at operation {number}: {kind:?} {}", path.display());
        begun("out");
        let stop = Stop::default();
        let disk = FaultyDisk::new(&stop, move |now, _, _| if now == number { fate } else { Fate::Done });
        let mut trainer =
            bench.trainer("out", 2, keep_one).unwrap().on_disk(Arc::clone(&disk) as _).stopped_by(stop);
        // It may have got to its end: what is written last are words.
        let _ = trainer.run(&mut ());
        assert_eq!(disk.operations().len(), number, "{what}: nothing comes after");

        let newest = Checkpoint::latest(&bench.out("out")).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!([1, 2].contains(&newest.position().optimizer_step), "{what}");
        bench.run("out", 2, keep_one);
        assert!(bench.result("out", 2) == expected, "{what}: other numbers");
        let left = list_checkpoints(&bench.out("out"), Thoroughness::Hashes).unwrap();
        // Another one may have been about to be deleted.
        assert!(
            left.len() <= 2 && left.iter().all(|info| info.condition == Condition::Verified),
            "{what}: {left:?}"
        );
        let hidden: Vec<_> = fs::read_dir(bench.out("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(".checkpoint") || name.starts_with(".writing"))
            .collect();
        assert!(hidden.is_empty(), "{what}: {hidden:?} is left");
    }
    operations.len()
}

#[test]
fn a_process_that_dies_at_any_write_rename_or_sync_loses_no_checkpoint() {
    let n_operations = check(Fate::Dies);
    println!("{n_operations} operations");
    assert!(n_operations > 40, "{n_operations} operations");
}

#[test]
fn a_power_cut_at_any_write_rename_or_sync_loses_no_checkpoint() {
    check(Fate::PowerFails);
}
