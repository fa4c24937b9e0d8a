//! The few messages of TensorBoard's protocol that are written here.
//!
//! Source: TensorBoard 2.21, `compat/proto/event.proto` and `summary.proto`; the tags are theirs.

use prost::Message;

use crate::picture::Picture;

/// One entry of an event file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// Values of one step.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub(super) values: Vec<Value>,
}

/// A number or a picture under a name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    Simple(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3 is RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// 1 is a start: what earlier files say of this step and later ones is void.
    #[prost(int32, tag = "1")]
    status: i32,
}

impl Event {
    /// The first entry of every file.
    pub(super) fn file_version(wall_time: f64) -> Self {
        Self { wall_time, step: 0, what: Some(What::FileVersion("brain.Event:2".to_owned())) }
    }

    /// Makes entries of this step and later ones in earlier files void.
    pub(super) fn session_start(wall_time: f64, step: u64) -> Self {
        Self::new(wall_time, step, What::SessionLog(SessionLog { status: 1 }))
    }

    pub(super) fn summary(wall_time: f64, step: u64, summary: Summary) -> Self {
        Self::new(wall_time, step, What::Summary(summary))
    }

    fn new(wall_time: f64, step: u64, what: What) -> Self {
        Self { wall_time, step: i64::try_from(step).unwrap_or(i64::MAX), what: Some(what) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

impl Value {
    #[expect(clippy::cast_possible_truncation, reason = "the format has single precision")]
    pub(super) fn scalar(tag: String, value: f64) -> Self {
        Self { tag, content: Some(Content::Simple(value as f32)) }
    }

    /// `None` for a picture too large for the format.
    pub(super) fn picture(tag: String, picture: Picture) -> Option<Self> {
        let (width, height) = (i32::try_from(picture.width).ok()?, i32::try_from(picture.height).ok()?);
        let image = Image { height, width, colorspace: 3, encoded: picture.png };
        Some(Self { tag, content: Some(Content::Image(image)) })
    }
}
