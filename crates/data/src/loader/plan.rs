//! What each batch is made of.

use std::sync::Arc;

use super::LoaderOptions;
use crate::buckets::Buckets;
use crate::error::DataError;
use crate::geometry::Size;
use crate::order::{BatchOrder, Cursor, Share, batches_of};
use crate::source::{Data, Dataset, Sample, StreamCursor};
use crate::transform::Transform;

/// What can be said of an epoch without reading a row.
#[derive(Clone)]
pub(super) enum Order {
    Listed { dataset: Arc<Dataset>, order: BatchOrder },
    Streamed { batches_per_epoch: usize },
}

fn listed_order(dataset: &Dataset, options: &LoaderOptions) -> BatchOrder {
    let batch_size = options.share.batch_size_of_all(options.batch_size);
    BatchOrder::new(options.seed, dataset.samples().len(), batch_size).within(options.buckets.clone())
}

impl Order {
    pub(super) fn new(data: &Data, options: &LoaderOptions) -> Self {
        match data {
            Data::Listed(dataset) => {
                Self::Listed { dataset: Arc::clone(dataset), order: listed_order(dataset, options) }
            }
            Data::Streamed(stream) => {
                Self::Streamed { batches_per_epoch: batches_of(stream.n_own_rows(), options.batch_size) }
            }
        }
    }

    pub(super) fn batches_per_epoch(&self) -> usize {
        match self {
            Self::Listed { order, .. } => order.batches_per_epoch(),
            Self::Streamed { batches_per_epoch } => *batches_per_epoch,
        }
    }
}

/// What a batch is made of: samples, and rows that are none.
pub(super) struct Plan {
    pub(super) rows: Vec<Result<Sample, DataError>>,
    /// Of the bucket, if there are buckets and this one has a size.
    pub(super) size: Option<Size>,
    pub(super) epoch: u64,
    pub(super) cursor_after: Cursor,
}

/// The buckets, and the one of each sample.
pub(super) type SizeOfEach = (Buckets, Arc<[usize]>);

/// Says what one batch after another is made of.
pub(super) enum Planner {
    Listed {
        dataset: Arc<Dataset>,
        order: BatchOrder,
        share: Share,
        size_of_each: Option<SizeOfEach>,
        cursor: Cursor,
    },
    Streamed(Box<StreamCursor>),
}

impl Planner {
    pub(super) fn new(data: Data, options: &LoaderOptions, start: Cursor) -> Self {
        match data {
            Data::Listed(dataset) => {
                let order = listed_order(&dataset, options);
                let Transform { side, buckets, .. } = options.transform;
                let buckets = buckets.map(|step| Buckets::new(side, step));
                Self::Listed {
                    dataset,
                    order,
                    share: options.share,
                    size_of_each: buckets.zip(options.buckets.clone()),
                    cursor: start,
                }
            }
            Data::Streamed(stream) => {
                Self::Streamed(Box::new(StreamCursor::new(stream, options.seed, options.batch_size, start)))
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<Plan, DataError> {
        match self {
            Self::Listed { dataset, order, share, size_of_each, cursor } => {
                let batch = order.batch(*cursor)?;
                let size = size_of_each.as_ref().zip(batch.first());
                let size = size.and_then(|((buckets, of_each), &index)| buckets.sizes().get(of_each[index]));
                let rows =
                    share.of(batch).iter().map(|&index| Ok(dataset.samples()[index].clone())).collect();
                let (size, epoch) = (size.copied(), cursor.epoch);
                *cursor = order.after(*cursor);
                Ok(Plan { rows, size, epoch, cursor_after: *cursor })
            }
            Self::Streamed(stream) => {
                let epoch = stream.cursor().epoch;
                let (rows, cursor_after) = stream.next()?;
                Ok(Plan { rows, size: None, epoch, cursor_after })
            }
        }
    }
}
