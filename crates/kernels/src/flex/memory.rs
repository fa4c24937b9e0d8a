//! How kernels see the memory of tensors.

use std::cell::Cell;
use std::mem::MaybeUninit;

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};

/// The values of an f32 tensor that [`contiguous`] returned.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("a contiguous f32 tensor")
}

/// The tensor with its values in the order of its shape.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// A tensor of the given values.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}

/// `len` values, and what `fill` returns, which writes them into memory that has not been cleared: clearing takes as
/// long as an operation that only passes over memory.
///
/// # Safety
/// `fill` writes every value.
pub(super) unsafe fn filled<T>(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>]) -> T) -> (Vec<f32>, T) {
    let mut values = Vec::with_capacity(len);
    let result = fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is there, and the caller promises that the values are written.
    unsafe { values.set_len(len) };
    (values, result)
}

/// A pointer through which several threads fill disjoint parts of one slice.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: `Shared::row` asks its callers to keep what they write disjoint.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The `len` values from `start` on.
    ///
    /// # Safety
    /// They lie within the slice, which outlives the result, and no other thread touches them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn row<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: what the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Calls `work` with `len` values of this thread's scratch memory; what they hold is left from earlier work.
///
/// Reuse matters: fresh memory costs a page fault per 4 KiB, as much as the copies that go into it.
pub(super) fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = work(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}
