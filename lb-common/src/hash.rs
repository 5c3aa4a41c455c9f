//! The keyed flow hash: the one answer to "which slot?".
