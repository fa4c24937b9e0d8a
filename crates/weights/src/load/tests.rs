use std::path::PathBuf;

use burn::module::ParamId;
use burn::tensor::Shape;
use tempfile::TempDir;

use super::*;
use crate::names_and_shapes;
use crate::toy::{RENAMES, Toy, ramp, write_file};

const OPTIONS: LoadOptions<'_> = LoadOptions {
    renames: RENAMES,
    aliases: &[],
    optional_prefix: None,
    ignore: &[],
    variant: None,
    pickles: Pickles::Refused,
    places: None,
    names_only: false,
};

type Tensors = BTreeMap<String, TensorData>;

/// Changes the toy's complete file, loads it and gives the outcome.
fn load_changed(change: impl FnOnce(&mut Tensors), options: &LoadOptions<'_>) -> Result<Toy, WeightsError> {
    let dir = TempDir::new().unwrap();
    let path: PathBuf = dir.path().join("model.safetensors");
    let toy = Toy::new(&Device::flex());
    let mut tensors = toy.tensors();
    change(&mut tensors);
    write_file(&path, &tensors);
    load(toy, &path, options)
}

fn mismatch_of(outcome: Result<Toy, WeightsError>) -> Mismatch {
    match outcome {
        Err(WeightsError::Mismatch { mismatch, .. }) => *mismatch,
        other => panic!("expected a mismatch, got {other:?}"),
    }
}

fn values<const D: usize>(param: &Param<Tensor<D>>) -> Vec<f32> {
    param.val().into_data().try_into_vec().unwrap()
}

fn rename(tensors: &mut Tensors, from: &str, to: &str) {
    let tensor = tensors.remove(from).unwrap();
    tensors.insert(to.to_owned(), tensor);
}

#[test]
fn names_and_shapes_are_pytorchs() {
    let shapes = names_and_shapes(&Toy::new(&Device::flex()), &RENAMES);
    for (name, shape) in [
        ("conv_in.weight", vec![4, 3, 3, 3]),
        ("conv_shortcut.bias", vec![4]),
        ("blocks.0.group_norm.weight", vec![4]),
        ("blocks.0.group_norm.bias", vec![4]),
        ("blocks.1.norm1.weight", vec![4]),
        ("blocks.1.norm1.bias", vec![4]),
        ("blocks.1.to_q.weight", vec![4, 4]),
        ("blocks.1.to_out.0.weight", vec![3, 4]),
        ("blocks.1.ff.net.0.proj.weight", vec![40, 4]),
        ("token_embedding.weight", vec![5, 4]),
    ] {
        assert_eq!(shapes.get(name), Some(&shape), "{name}");
    }
    assert_eq!(shapes.len(), 2 + 2 * 9 + 1 + 2);
}

#[test]
fn linear_weights_are_transposed_and_nothing_else_is() {
    let toy = load_changed(|_| {}, &OPTIONS).unwrap();
    let tensors = toy.tensors();
    let in_file = |name: &str| tensors[name].clone().try_into_vec::<f32>().unwrap();

    let weight = toy.blocks[1].ff.proj_in.weight.val();
    assert_eq!(weight.dims(), [4, 40]);
    let file = in_file("blocks.1.ff.net.0.proj.weight");
    let ours = values(&toy.blocks[1].ff.proj_in.weight);
    for d_in in 0..4 {
        for d_out in 0..40 {
            assert_eq!(ours[d_in * 40 + d_out], file[d_out * 4 + d_in]);
        }
    }
    assert_eq!(values(&toy.token_embedding.weight), in_file("token_embedding.weight"));
    assert_eq!(values(&toy.conv_in.weight), in_file("conv_in.weight"));
    assert_eq!(values(&toy.blocks[0].norm1.gamma), in_file("blocks.0.norm1.weight"));
    assert_eq!(values(toy.blocks[0].group_norm.beta.as_ref().unwrap()), in_file("blocks.0.group_norm.bias"));
}

#[test]
fn every_difference_is_listed_with_names_shapes_and_near_names() {
    let outcome = load_changed(
        |tensors| {
            rename(tensors, "conv_in.weight", "input_conv.weight");
            tensors.remove("token_embedding.weight");
            tensors.insert("position_ids".to_owned(), TensorData::new(vec![0_i64, 1], [2]));
            tensors.insert("blocks.0.to_q.weight".to_owned(), ramp(0, vec![4, 5]));
            tensors.insert("blocks.1.norm1.bias".to_owned(), TensorData::new(vec![0_i64; 4], [4]));
        },
        &OPTIONS,
    );
    let mismatch = mismatch_of(outcome);
    assert_eq!(
        mismatch.to_string(),
        "2 tensors are missing, 2 are unused, 1 is wrongly shaped, 1 is not floating point\n    \
         missing: conv_in.weight [4, 3, 3, 3]   (found: input_conv.weight)\n    \
         missing: token_embedding.weight [5, 4]\n    \
         unused: input_conv.weight [4, 3, 3, 3]\n    \
         unused: position_ids [2]\n    \
         wrongly shaped: blocks.0.to_q.weight [4, 4]   (found: [4, 5])\n    \
         not floating point: blocks.1.norm1.bias   (found: I64)"
    );
}

#[test]
fn a_transposed_linear_weight_is_wrongly_shaped() {
    let outcome = load_changed(
        |tensors| {
            tensors.insert("blocks.0.to_out.0.weight".to_owned(), ramp(0, vec![4, 3]));
        },
        &OPTIONS,
    );
    let mismatch = mismatch_of(outcome);
    assert_eq!(mismatch.misshapen[0].expected, [3, 4]);
    assert_eq!(mismatch.misshapen[0].found, [4, 3]);
}

#[test]
fn only_ignored_tensors_may_be_unused() {
    let add = |tensors: &mut Tensors| {
        tensors.insert("text_model.embeddings.position_ids".to_owned(), ramp(0, vec![7]));
    };
    for (ignore, accepted) in [
        (&["position_ids"][..], true),
        (&["text_model.embeddings.position_ids"], true),
        (&["ids"], false),
        (&[], false),
    ] {
        let outcome = load_changed(add, &LoadOptions { ignore, ..OPTIONS });
        assert_eq!(outcome.is_ok(), accepted, "{ignore:?}");
    }
}

#[test]
fn old_names_load_through_aliases_and_conv_weights_fill_linear_ones() {
    let aliases = &[("query", "to_q"), ("proj_attn", "to_out.0")];
    let old = |tensors: &mut Tensors| {
        rename(tensors, "blocks.0.to_q.weight", "blocks.0.query.weight");
        rename(tensors, "blocks.0.to_out.0.bias", "blocks.0.proj_attn.bias");
        tensors.remove("blocks.0.to_out.0.weight");
        tensors.insert("blocks.0.proj_attn.weight".to_owned(), ramp(50, vec![3, 4, 1, 1]));
    };
    let toy = load_changed(old, &LoadOptions { aliases, ..OPTIONS }).unwrap();
    let expected: Vec<f32> =
        [50, 54, 58, 51, 55, 59, 52, 56, 60, 53, 57, 61].map(|value| value as f32).to_vec();
    assert_eq!(values(&toy.blocks[0].to_out.weight), expected);

    assert_eq!(mismatch_of(load_changed(old, &OPTIONS)).missing.len(), 3);
}

#[test]
fn a_tensor_under_its_old_and_its_present_name_is_unused_once() {
    let both = |tensors: &mut Tensors| {
        tensors.insert("blocks.0.query.weight".to_owned(), ramp(0, vec![4, 4]));
    };
    let mismatch = mismatch_of(load_changed(both, &LoadOptions { aliases: &[("query", "to_q")], ..OPTIONS }));
    assert_eq!(mismatch.unused[0].name, "blocks.0.query.weight");
    assert_eq!((mismatch.unused.len(), mismatch.missing.len()), (1, 0));
}

#[test]
fn an_optional_prefix_may_be_there_or_not() {
    let with_prefix = |tensors: &mut Tensors| {
        *tensors =
            std::mem::take(tensors).into_iter().map(|(name, t)| (format!("text_model.{name}"), t)).collect();
    };
    let options = LoadOptions { optional_prefix: Some("text_model"), ..OPTIONS };
    assert!(load_changed(with_prefix, &options).is_ok());
    assert!(load_changed(|_| {}, &options).is_ok());
    assert!(load_changed(with_prefix, &OPTIONS).is_err());

    let options = LoadOptions { optional_prefix: Some("blocks"), ..OPTIONS };
    let without = |tensors: &mut Tensors| rename(tensors, "blocks.0.to_q.weight", "0.to_q.weight");
    assert!(load_changed(without, &options).is_ok());
}

#[test]
fn files_of_every_float_type_load_as_the_modules_own() {
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let convert = |tensors: &mut Tensors| {
            for data in tensors.values_mut() {
                *data = data.clone().try_cast(dtype).unwrap();
            }
        };
        let toy = load_changed(convert, &OPTIONS).unwrap();
        assert_eq!(toy.conv_in.weight.val().dtype(), DType::F32);
        let expected: Vec<f32> = toy.tensors()["conv_in.weight"].clone().try_into_vec().unwrap();
        assert_eq!(values(&toy.conv_in.weight), expected, "{dtype:?}");
    }
}

#[test]
fn an_initialised_half_precision_parameter_stays_half_precision() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("w.safetensors");
    write_file(&path, &BTreeMap::from([("weight".to_owned(), ramp(3, vec![2, 2]))]));
    let half = Tensor::<2>::zeros([2, 2], (&Device::flex(), DType::BF16));
    let module = OneWeight { weight: Param::from_tensor(half) };
    let module = load(module, &path, &LoadOptions::default()).unwrap();
    assert_eq!(module.weight.val().dtype(), DType::BF16);
    assert_eq!(module.weight.val().try_into_vec_as::<f32>().unwrap(), [3.0, 4.0, 5.0, 6.0]);
}

#[derive(Module, Debug)]
struct OneWeight {
    weight: Param<Tensor<2>>,
}

#[test]
fn loading_never_initialises_a_parameter() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("w.safetensors");
    write_file(&path, &BTreeMap::from([("weight".to_owned(), ramp(0, vec![2, 3]))]));
    let build = |shape: [usize; 2]| OneWeight {
        weight: Param::uninitialized(
            ParamId::new(),
            |_, _| panic!("a random weight was made"),
            Device::flex(),
            true,
            Shape::new(shape),
        ),
    };
    assert_eq!(names_and_shapes(&build([2, 3]), &Renames::NONE)["weight"], [2, 3]);
    assert!(load(build([2, 3]), &path, &LoadOptions::default()).is_ok());
    assert!(load(build([3, 2]), &path, &LoadOptions::default()).is_err());
}

#[test]
fn ids_devices_and_gradient_settings_are_kept() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    let device = Device::flex().autodiff();
    let mut toy = Toy::new(&device);
    toy.blocks[0] = toy.blocks[0].clone().no_grad();
    write_file(&path, &toy.tensors());
    let ids = [toy.conv_in.weight.id, toy.blocks[0].to_q.weight.id];

    let toy = load(toy, &path, &OPTIONS).unwrap();
    assert_eq!([toy.conv_in.weight.id, toy.blocks[0].to_q.weight.id], ids);
    assert!(toy.conv_in.weight.is_require_grad());
    assert!(toy.blocks[1].to_out.weight.is_require_grad());
    assert!(!toy.blocks[0].to_q.weight.is_require_grad());
    assert_eq!(toy.conv_in.weight.val().device(), device);
}

#[test]
fn a_file_of_another_model_is_named_in_the_hint() {
    let original = |tensors: &mut Tensors| {
        *tensors = BTreeMap::from([(
            "control_model.input_hint_block.0.weight".to_owned(),
            ramp(0, vec![16, 3, 3, 3]),
        )]);
    };
    let hint = load_changed(original, &OPTIONS).unwrap_err().hint().unwrap();
    assert!(hint.contains("original ControlNet names"), "{hint}");
}

#[test]
fn transposing_covers_whole_and_partial_tiles() {
    for (rows, columns) in [(1, 1), (32, 32), (33, 70), (5, 64), (0, 3)] {
        let values: Vec<usize> = (0..rows * columns).collect();
        let transposed = transpose(&values, rows, columns);
        for row in 0..rows {
            for column in 0..columns {
                assert_eq!(transposed[column * rows + row], values[row * columns + column]);
            }
        }
    }
}
