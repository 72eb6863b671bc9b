//! A watch is one JSON object a line. This cuts a stream into lines, up to a length.

/// etcd takes objects of 1.5 MiB; more than this is no object.
pub(super) const LONGEST: usize = 16 << 20;

/// What came and is not yet a whole line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// No end of line up to here.
    searched: usize,
    /// Where the next line starts.
    start: usize,
}

/// A line never ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        if self.buffer.is_empty() && self.buffer.capacity() > LONGEST / 16 {
            // One large object does not make a large process.
            self.buffer = Vec::new();
        }
        if self.buffer.len() + bytes.len() > LONGEST {
            return Err(TooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether there is a whole line.
    pub(super) fn is_ready(&mut self) -> bool {
        let rest = &self.buffer[self.searched..];
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(offset) => {
                self.searched += offset;
                true
            }
            None => {
                self.searched = self.buffer.len();
                false
            }
        }
    }

    /// The next whole line, without its end.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if !self.is_ready() {
            return None;
        }
        let line = self.start..self.searched;
        self.searched += 1;
        self.start = self.searched;
        Some(&self.buffer[line])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_come_out_whole_however_the_stream_is_cut(
            lines in proptest::collection::vec("[a-z]{0,9}", 0..20), cuts in proptest::collection::vec(1usize..7, 1..50),
        ) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let mut rest = text.as_bytes();
            let (mut cutter, mut seen) = (Lines::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                cutter.push(now).unwrap();
                rest = later;
                while let Some(line) = cutter.next() {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(seen, lines);
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let mut cutter = Lines::default();
        let chunk = vec![b'x'; 1 << 20];
        let pushed = (0..17).find_map(|_| {
            let pushed = cutter.push(&chunk);
            let _ = cutter.next();
            pushed.err()
        });
        assert_eq!(pushed, Some(TooLong));
    }
}
