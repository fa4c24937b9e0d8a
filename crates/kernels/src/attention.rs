//! Scaled dot-product attention over several heads.

#[cfg(any(feature = "flex", feature = "cube"))]
mod tiled;

use burn::prelude::*;
use burn::tensor::module;
use burn::tensor::ops::AttentionModuleOptions;

/// Scaled dot-product attention, `softmax(q k^T / sqrt(d_head)) v`, without mask or dropout.
///
/// The score matrix is never stored, forward or backward. On the CPU backend in f32 a kernel of our own sees to that; on
/// other backends and in other precisions attention is composed of the backend's operations, a bounded tile of the
/// scores at a time, unless the backend has a kernel for it, as for halves without autodiff.
///
/// # Shapes
/// - query: `[batch, n_heads, n_queries, d_head]`
/// - key and value: `[batch, n_heads, n_keys, d_head]`
/// - output: `[batch, n_heads, n_queries, d_head]`
///
/// Source: Vaswani et al. 2017, eq. 1.
#[must_use]
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(attended) = crate::flex::attention::attention(&query, &key, &value) {
        return attended;
    }
    #[cfg(any(feature = "flex", feature = "cube"))]
    if let Some(attended) = tiled::attention(&query, &key, &value) {
        return attended;
    }
    module::attention(query, key, value, None, None, Default::default())
}

/// [`attention`] where a query sees no key behind its own position. All scores exist at once: it is for short texts.
///
/// # Shapes
/// As [`attention`], with as many keys as queries.
#[must_use]
pub fn causal_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let [_, _, _, d_head] = query.dims();
    // A GPU backend that is told the scale composes attention. Its kernel, which takes no scale, multiplies in halves
    // whatever it is given.
    #[expect(clippy::cast_precision_loss, reason = "a head is far smaller than 2^52")]
    let scale = Some(1.0 / (d_head as f64).sqrt());
    let causal = AttentionModuleOptions { is_causal: true, scale, ..Default::default() };
    module::attention(query, key, value, None, None, causal)
}

/// Splits the model width into heads.
///
/// # Shapes
/// - input: `[batch, tokens, d_model]`
/// - output: `[batch, n_heads, tokens, d_model / n_heads]`
///
/// # Panics
/// If `n_heads` does not divide `d_model`.
#[must_use]
pub fn split_heads(tokens: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [batch, n_tokens, d_model] = tokens.dims();
    tokens.reshape([batch, n_tokens, n_heads, d_model / n_heads]).swap_dims(1, 2)
}

/// Undoes [`split_heads`].
///
/// # Shapes
/// - input: `[batch, n_heads, tokens, d_head]`
/// - output: `[batch, tokens, n_heads * d_head]`
#[must_use]
pub fn merge_heads(heads: Tensor<4>) -> Tensor<3> {
    let [batch, n_heads, n_tokens, d_head] = heads.dims();
    heads.swap_dims(1, 2).reshape([batch, n_tokens, n_heads * d_head])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::draw::draw;

    #[test]
    fn merging_undoes_splitting() {
        let tokens = Tensor::<1, Int>::arange(0..2 * 5 * 12, &Device::flex()).float().reshape([2, 5, 12]);
        let heads = split_heads(tokens.clone(), 3);
        assert_eq!(heads.dims(), [2, 3, 5, 4]);
        assert_eq!(merge_heads(heads).into_data(), tokens.into_data());
    }

    #[test]
    fn outputs_and_gradients_are_those_of_burn() {
        let device = Device::flex().autodiff();
        for (batch, n_heads, n_queries, n_keys, d_head) in
            [(1, 1, 1, 1, 1), (2, 3, 5, 9, 8), (1, 2, 48, 77, 40), (2, 4, 100, 100, 16), (1, 1, 130, 3, 70)]
        {
            // As `split_heads` leaves it: heads and tokens are swapped in memory.
            let random = |tokens| {
                let distribution = Distribution::Normal(0.0, 2.0);
                draw::<4>([batch, tokens, n_heads, d_head], distribution, &device).swap_dims(1, 2)
            };
            let inputs = [random(n_queries), random(n_keys), random(n_keys)];
            let weight = random(n_queries);
            let run = |attend: &dyn Fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>| {
                let inputs = inputs.clone().map(|input| input.detach().require_grad());
                let [query, key, value] = inputs.clone();
                let output = attend(query, key, value);
                let gradients = (output.clone() * weight.clone()).sum().backward();
                let [query, key, value] = inputs.map(|input| input.grad(&gradients).expect("tracked"));
                [output.inner(), query, key, value]
            };
            let ours = run(&attention);
            let burns = run(&|query, key, value| {
                module::attention(query, key, value, None, None, Default::default())
            });
            for ((what, ours), burns) in ["output", "query", "key", "value"].iter().zip(ours).zip(burns) {
                let scale = burns.clone().abs().max().into_scalar::<f32>().max(1.0);
                let error = (ours - burns).abs().max().into_scalar::<f32>() / scale;
                assert!(
                    error < 2e-5,
                    "{what}: {n_queries} queries, {n_keys} keys of {d_head}: error {error}"
                );
            }
        }
    }

    #[test]
    fn equal_keys_average_the_values() {
        let device = Device::flex();
        let query = Tensor::<4>::ones([1, 1, 2, 4], &device);
        let key = Tensor::<4>::ones([1, 1, 3, 4], &device);
        let value =
            Tensor::<1>::from_floats([0.0, 3.0, 6.0], &device).reshape([1, 1, 3, 1]).expand([1, 1, 3, 4]);
        let averaged = attention(query, key, value);
        let error = (averaged - 3.0).abs().max().into_scalar::<f32>();
        assert!(error < 1e-6, "{error}");
    }
}
