//! Pickled files of PyTorch against their tensors as safetensors.

use pyrograph_weights::{load_pickled_tensors, load_tensors};

use super::cases::cases;

#[test]
fn a_pickled_file_has_the_tensors_that_torch_saved() {
    for case in cases("pickle") {
        let expected = load_tensors(&case.dir.join("tensors.safetensors")).expect("safetensors");
        let found = load_pickled_tensors(&case.dir.join("model.bin")).expect("a pickle that is well-formed");
        assert_eq!(found, expected, "{}", case.name);
    }
}
