//! What the user should know of an input while it is read.

/// Something that the user should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// How the input is read.
    Word(String),
    /// Something is lost, or costs something.
    Warning(String),
}
