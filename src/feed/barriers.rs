//! Up to where a source has published: a follower that wants to know puts a number that it has
//! drawn into its report (`barrier`), and the source answers with a record that has the number in a
//! header. Everything that changed before the question lies before that record.
//!
//! At the source a thread for each feed waits for such questions, has the engine flush, and has the
//! publisher store the answer. While the source cannot flush (it is paused, held, or the servers
//! are away) nothing is answered, and who asks gives up by itself. Questions that come during a
//! flush are answered together by the next one.

use std::time::Duration;

use crossbeam::channel::Receiver;

/// The header of an answer: the numbers, with commas between them.
pub(crate) const HEADER: &str = "Fansync-Barrier";
/// Numbers that one record answers.
const MOST: usize = 64;
/// How long a source may take to publish what had changed.
pub(crate) const WITHIN: Duration = Duration::from_secs(8);

/// Questions of followers, as a publisher has them.
pub(crate) struct Questions {
    /// The numbers.
    pub(crate) asked: Receiver<String>,
    /// Has the record stored that answers these.
    pub(crate) answer: Box<dyn Fn(Vec<String>) + Send>,
}

impl Questions {
    /// This number, with those that wait behind it.
    pub(crate) fn with(&self, first: String) -> Vec<String> {
        std::iter::once(first).chain(self.asked.try_iter().take(MOST - 1)).collect()
    }
}

/// The numbers of a header.
pub(crate) fn numbers(header: &str) -> impl Iterator<Item = u64> + '_ {
    header.split(',').filter_map(|number| u64::from_str_radix(number, 16).ok())
}

/// A number as reports and headers have it.
pub(crate) fn shown(number: u64) -> String {
    format!("{number:016x}")
}

/// Whether a report has such a number.
pub(crate) fn is_number(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::bounded;

    use super::*;

    #[test]
    fn one_record_answers_those_that_wait_and_no_more_than_fit() {
        let (ask, asked) = bounded(1_000);
        let questions = Questions { asked, answer: Box::new(|_| {}) };
        for number in 1..200 {
            ask.send(shown(number)).unwrap();
        }
        let first = questions.with(shown(0));
        assert_eq!((first.len(), numbers(&first.join(",")).collect::<Vec<_>>()), (MOST, (0..MOST as u64).collect()));
        assert_eq!(questions.with(questions.asked.recv().unwrap()).first(), Some(&shown(MOST as u64)));
    }

    #[test]
    fn only_what_a_follower_draws_is_a_number() {
        assert!(is_number(&shown(7)) && is_number(&shown(u64::MAX)));
        for other in ["", "7", "00000000000000zz", "0000000000000007,", "0000000000000007\r\n"] {
            assert!(!is_number(other), "{other:?}");
        }
        assert_eq!(numbers("0000000000000007,x,,00000000000000ff").collect::<Vec<_>>(), [7, 255]);
    }
}
