//! Fetches that go past offsets without a message. rskafka 0.6 says of an answer only which messages it has, so that what
//! else lies in a partition looks like its end:
//!
//! - ends of transactions, which are records of the broker (control batches). They cannot be read, and the whole answer that
//!   has one is lost (<https://github.com/influxdata/rskafka/pull/297>);
//! - what compaction has left of a batch. It keeps the batch's last offset when the last records are gone, and brokers
//!   answer from the batch with the offset that is asked for: where it is the last of a segment, with it alone.

use std::ops::Range;

use rskafka::client::error::Error;
use rskafka::client::partition::{OffsetAt, PartitionClient};
use rskafka::record::RecordAndOffset;

use crate::limits;

/// Bytes of a fetch that brings one batch: brokers send the first one however long it is.
const ONE_BATCH: Range<i32> = 1..2;

/// A partition as it is read here; tests have one without a broker.
pub trait Partition {
    /// The messages of one fetch (READ_COMMITTED), and the high watermark.
    async fn fetch(
        &self,
        offset: i64,
        bytes: Range<i32>,
        wait_ms: i32,
    ) -> Result<(Vec<RecordAndOffset>, i64), Error>;

    /// The last stable offset: before it no transaction is open, and all that there is can be fetched.
    async fn stable_end(&self) -> Result<i64, Error>;
}

impl Partition for PartitionClient {
    async fn fetch(
        &self,
        offset: i64,
        bytes: Range<i32>,
        wait_ms: i32,
    ) -> Result<(Vec<RecordAndOffset>, i64), Error> {
        self.fetch_records(offset, bytes, wait_ms).await
    }

    async fn stable_end(&self) -> Result<i64, Error> {
        // rskafka asks for it with READ_COMMITTED, as it fetches
        self.get_offset(OffsetAt::Latest).await
    }
}

/// The messages from `offset` on, as many as one fetch brings, and the offset before which there are no others. The broker
/// waits `wait_ms` for `least` bytes.
///
/// # Errors
/// What rskafka says of the broker.
pub async fn records(
    partition: &impl Partition,
    mut offset: i64,
    least: i32,
    wait_ms: i32,
) -> Result<(i64, Vec<RecordAndOffset>), Error> {
    let fetched = partition.fetch(offset, least..limits::KAFKA_FETCH_BYTES, wait_ms).await;
    if !shows_none(&fetched, offset) {
        return fetched.map(|(records, _)| (offset, records));
    }
    // Behind the stable end nothing is passed over: it may be a message of a transaction that is still open. It is asked for
    // before each offset is looked at once more, since messages may have come after the first look.
    let end = partition.stable_end().await?;
    for _ in 0..limits::KAFKA_PASSED_OVER {
        if offset >= end {
            break;
        }
        let fetched = partition.fetch(offset, ONE_BATCH, 0).await;
        if !shows_none(&fetched, offset) {
            return fetched.map(|(records, _)| (offset, records));
        }
        offset += 1;
    }
    Ok((offset, Vec::new()))
}

/// Is there something at this offset that the answer does not show? A leader that is new may know of less: what it has not
/// got yet is not passed over.
fn shows_none(fetched: &Result<(Vec<RecordAndOffset>, i64), Error>, offset: i64) -> bool {
    match fetched {
        Ok((records, watermark)) => records.is_empty() && offset < *watermark,
        Err(error) => has_an_end(error),
    }
}

/// Was there the end of a transaction in the answer?
fn has_an_end(error: &Error) -> bool {
    matches!(error, Error::Request(_)) && error.to_string().contains("control batch record")
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use rskafka::chrono::DateTime;
    use rskafka::client::error::RequestError;
    use rskafka::record::Record;

    use super::*;

    /// A batch: its last offset, and the offsets of its records; `None`: it is the end of a transaction.
    type Batch = (i64, Option<Vec<i64>>);

    /// A partition that answers as brokers and rskafka do.
    #[derive(Default)]
    struct Log {
        segments: RefCell<Vec<Vec<Batch>>>,
        /// Where the open transaction begins.
        open: Cell<Option<i64>>,
        /// Ends with `stable_end`, just before its answer.
        commits: Cell<bool>,
        fetches: Cell<usize>,
        asked_for_end: Cell<usize>,
    }

    fn messages(offsets: std::ops::RangeInclusive<i64>) -> Batch {
        (*offsets.end(), Some(offsets.collect()))
    }

    fn log<const N: usize>(segments: [&[Batch]; N]) -> Log {
        let segments = segments.into_iter().map(<[_]>::to_vec).collect();
        Log { segments: RefCell::new(segments), ..Log::default() }
    }

    impl Log {
        fn watermark(&self) -> i64 {
            self.segments.borrow().iter().flatten().next_back().map_or(0, |(last, _)| last + 1)
        }
    }

    impl Partition for Log {
        async fn fetch(
            &self,
            offset: i64,
            bytes: Range<i32>,
            _wait_ms: i32,
        ) -> Result<(Vec<RecordAndOffset>, i64), Error> {
            self.fetches.set(self.fetches.get() + 1);
            let visible =
                |(last, _): &&Batch| *last >= offset && self.open.get().is_none_or(|open| *last < open);
            let most = if bytes == ONE_BATCH { 1 } else { usize::MAX };
            let segments = self.segments.borrow();
            let answers = segments.iter().map(|segment| segment.iter().filter(visible).take(most));
            let mut offsets = Vec::new();
            for (_, held) in
                answers.into_iter().find(|answer| answer.clone().count() > 0).into_iter().flatten()
            {
                let Some(held) = held else {
                    let said = "Malformed data: Unknown control batch record version: 1";
                    return Err(Error::Request(RequestError::IO(std::io::Error::other(said))));
                };
                offsets.extend(held.iter().filter(|at| **at >= offset));
            }
            let timestamp = DateTime::from_timestamp_millis(0).unwrap();
            let record = |offset| RecordAndOffset {
                record: Record { key: None, value: None, headers: Default::default(), timestamp },
                offset,
            };
            Ok((offsets.into_iter().map(record).collect(), self.watermark()))
        }

        async fn stable_end(&self) -> Result<i64, Error> {
            self.asked_for_end.set(self.asked_for_end.get() + 1);
            if self.commits.take() {
                let end = self.watermark();
                self.segments.borrow_mut().push(vec![(end, None)]);
                self.open.set(None);
            }
            Ok(self.open.get().unwrap_or_else(|| self.watermark()))
        }
    }

    /// From where on, and the offsets of what came.
    async fn read(log: &Log, offset: i64) -> (i64, Vec<i64>) {
        let (next, records) = records(log, offset, 1, 500).await.unwrap();
        (next, records.iter().map(|record| record.offset).collect())
    }

    #[tokio::test]
    async fn what_compaction_has_left_at_the_end_of_a_segment_is_no_end() {
        let log = log([&[(9, Some(vec![0, 1, 4]))], &[messages(10..=11)]]);
        assert_eq!(read(&log, 0).await, (0, vec![0, 1, 4]));
        assert_eq!(read(&log, 5).await, (10, vec![10, 11]));
        // nor is what is left of the last of all batches, where more may come
        let log = self::log([&[(9, Some(vec![0]))]]);
        assert_eq!(read(&log, 1).await, (10, vec![]));
    }

    #[tokio::test]
    async fn ends_of_transactions_are_passed_over() {
        let log = log([&[messages(0..=2), (3, None), (4, None), messages(5..=5), (6, None)]]);
        assert_eq!(read(&log, 0).await, (0, vec![0, 1, 2]));
        assert_eq!(read(&log, 3).await, (5, vec![5]));
        assert_eq!(read(&log, 6).await, (7, vec![]));
    }

    #[tokio::test]
    async fn messages_of_an_open_transaction_are_waited_for() {
        let log = log([&[messages(0..=2), messages(3..=4)]]);
        log.open.set(Some(3));
        for _ in 0..3 {
            assert_eq!(read(&log, 3).await, (3, vec![]));
        }
        // it is committed between one question and the next
        log.commits.set(true);
        assert_eq!(read(&log, 3).await, (3, vec![3, 4]));
    }

    #[tokio::test]
    async fn at_the_end_one_question_is_asked() {
        let log = log([&[messages(0..=2)]]);
        assert_eq!(read(&log, 3).await, (3, vec![]));
        assert_eq!((log.fetches.get(), log.asked_for_end.get()), (1, 0));
    }

    #[tokio::test]
    async fn a_fetch_goes_past_so_many_offsets() {
        let passed = limits::KAFKA_PASSED_OVER as i64;
        assert!(passed * 70 < limits::KAFKA_CALL_MS as i64, "where a broker is 70 ms away they are in time");
        let log = log([&[(2 * passed - 1, Some(vec![0]))], &[messages(2 * passed..=2 * passed)]]);
        assert_eq!(read(&log, 1).await, (1 + passed, vec![]));
        assert_eq!(log.fetches.get(), 1 + limits::KAFKA_PASSED_OVER);
        assert_eq!(read(&log, 1 + passed).await, (2 * passed, vec![2 * passed]));
    }
}
