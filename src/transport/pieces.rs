//! What the pieces of a stream say of those to come: large ones ask for large receive buffers, a run of small ones for the
//! small buffers that all connections share. For streams whose messages have no length that is known before.

use crate::limits;

/// The pieces of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces {
    /// How many in a row say nothing for the present size.
    unlike: u8,
    bulk: bool,
}

impl Pieces {
    /// A piece has come. `Some`: what [`Stream::expect_bulk`](super::Stream::expect_bulk) is to be told.
    pub fn came(&mut self, bytes: usize) -> Option<bool> {
        let is_large = bytes >= limits::BULK_PIECE;
        self.unlike = if is_large == self.bulk { 0 } else { self.unlike + 1 };
        if self.unlike < limits::BULK_CHANGE {
            return None;
        }
        *self = Pieces { unlike: 0, bulk: is_large };
        Some(is_large)
    }

    /// They come in large buffers.
    pub fn are_bulk(self) -> bool {
        self.bulk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_pieces_of_the_other_size_changes_the_buffers() {
        let mut pieces = Pieces::default();
        let mut told = |sizes: &[usize]| sizes.iter().map(|bytes| pieces.came(*bytes)).collect::<Vec<_>>();
        let (large, small) = (limits::BULK_PIECE, limits::BULK_PIECE - 1);
        assert_eq!(told(&[large, large, large, small]), [None; 4], "a small one between");
        assert_eq!(told(&[large; 4]), [None, None, None, Some(true)]);
        assert_eq!(told(&[large, small, small, small, large]), [None; 5]);
        assert_eq!(told(&[small; 5]), [None, None, None, Some(false), None]);
    }
}
