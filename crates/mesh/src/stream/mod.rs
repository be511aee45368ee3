//! What is known of the stream, and of its pace.

pub(crate) mod bits;
pub(crate) mod heads;
pub(crate) mod statements;
pub(crate) mod tempo;
pub(crate) mod window;
