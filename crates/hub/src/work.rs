//! Which piece of work comes next: pure. Files in order, their chunks in order; a file that is whole is finished before new
//! chunks are begun, so that few files are partial at any time.

use std::collections::BTreeSet;
use std::ops::Range;

/// One piece of work. `file` counts the files that were given to [`Work::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// See what has come of it before; answer with [`Work::prepared`].
    Prepare { file: usize },
    /// Fetch one chunk; answer with [`Work::came`] when it is there, then with [`Work::ended`].
    Fetch { file: usize, chunk: u64 },
    /// All chunks came: check it whole; answer with [`Work::finished`] or [`Work::again`].
    Finish { file: usize },
}

/// What a worker does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Job(Job),
    /// Nothing until another worker has answered.
    Wait,
    /// Nothing, ever.
    End,
}

/// All files that are to come.
pub(crate) struct Work {
    files: Vec<FileWork>,
}

struct FileWork {
    /// Chunks of the whole file.
    chunks: u64,
    stage: Stage,
    /// Chunks that did not come.
    missing: BTreeSet<u64>,
    /// Those of them that nobody was given.
    pending: BTreeSet<u64>,
    /// Fetch jobs that were given out and have not ended.
    flying: usize,
    /// The server knows no ranges: one job reads the file as one stream.
    streamed: bool,
    attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Preparing,
    Fetching,
    Finishing,
    Done,
}

impl Work {
    /// `chunks`: how many each file has.
    pub(crate) fn new(chunks: impl IntoIterator<Item = u64>) -> Self {
        let file = |chunks| FileWork {
            chunks,
            stage: Stage::New,
            missing: BTreeSet::new(),
            pending: BTreeSet::new(),
            flying: 0,
            streamed: false,
            attempts: 0,
        };
        Self { files: chunks.into_iter().map(file).collect() }
    }

    /// Gives out a piece of work.
    pub(crate) fn next(&mut self) -> Next {
        let files = &mut self.files;
        let whole = |file: &FileWork| file.missing.is_empty() && file.flying == 0;
        if let Some(index) = files.iter().position(|file| file.stage == Stage::Fetching && whole(file)) {
            files[index].stage = Stage::Finishing;
            return Next::Job(Job::Finish { file: index });
        }
        for (index, file) in files.iter_mut().enumerate().filter(|(_, file)| file.stage == Stage::Fetching) {
            if let Some(chunk) = file.pending.pop_first() {
                file.flying += 1;
                return Next::Job(Job::Fetch { file: index, chunk });
            }
        }
        if let Some(index) = files.iter().position(|file| file.stage == Stage::New) {
            files[index].stage = Stage::Preparing;
            return Next::Job(Job::Prepare { file: index });
        }
        if files.iter().all(|file| file.stage == Stage::Done) { Next::End } else { Next::Wait }
    }

    /// A file's chunks that are there already are known.
    pub(crate) fn prepared(&mut self, file: usize, done: &BTreeSet<u64>) {
        let file = &mut self.files[file];
        assert_eq!(file.stage, Stage::Preparing, "a file is prepared once per attempt");
        file.missing = (0..file.chunks).filter(|chunk| !done.contains(chunk)).collect();
        file.pending = file.missing.clone();
        file.stage = Stage::Fetching;
    }

    /// A chunk is on the disk. False if it was before.
    pub(crate) fn came(&mut self, file: usize, chunk: u64) -> bool {
        self.files[file].pending.remove(&chunk);
        self.files[file].missing.remove(&chunk)
    }

    /// Whether a chunk did not come yet.
    pub(crate) fn is_missing(&self, file: usize, chunk: u64) -> bool {
        self.files[file].missing.contains(&chunk)
    }

    /// A fetch job is over, whether or not it brought its chunk.
    pub(crate) fn ended(&mut self, file: usize) {
        let file = &mut self.files[file];
        file.flying = file.flying.checked_sub(1).expect("a job ends once");
    }

    /// A job met a server that knows no ranges. The chunks that it is to read as one stream; `None` if another job does, so
    /// that this one ends. `is_stream`: this job was given a stream before.
    pub(crate) fn widen(&mut self, file: usize, is_stream: bool) -> Option<Range<u64>> {
        let file = &mut self.files[file];
        if file.streamed && !is_stream {
            return None;
        }
        file.streamed = true;
        file.pending.clear();
        file.missing.first().map(|&first| first..file.chunks)
    }

    /// A file is whole and has its name.
    pub(crate) fn finished(&mut self, file: usize) {
        self.files[file].stage = Stage::Done;
    }

    /// A file was thrown away and starts anew.
    pub(crate) fn again(&mut self, file: usize) {
        let file = &mut self.files[file];
        file.stage = Stage::New;
        file.streamed = false;
        file.attempts += 1;
    }

    /// How often a file was thrown away.
    pub(crate) fn attempts(&self, file: usize) -> u32 {
        self.files[file].attempts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fetch(file: usize, chunk: u64) -> Next {
        Next::Job(Job::Fetch { file, chunk })
    }

    #[test]
    fn a_file_is_finished_before_the_next_goes_on() {
        let mut work = Work::new([2, 1]);
        assert_eq!(work.next(), Next::Job(Job::Prepare { file: 0 }));
        assert_eq!(work.next(), Next::Job(Job::Prepare { file: 1 }));
        assert_eq!(work.next(), Next::Wait);
        work.prepared(0, &BTreeSet::from([0]));
        work.prepared(1, &BTreeSet::new());
        assert_eq!(work.next(), fetch(0, 1));
        assert_eq!(work.next(), fetch(1, 0));
        assert_eq!(work.next(), Next::Wait);
        assert!(work.came(0, 1));
        work.ended(0);
        assert_eq!(work.next(), Next::Job(Job::Finish { file: 0 }));
        work.finished(0);
        assert!(work.came(1, 0));
        work.ended(1);
        assert_eq!(work.next(), Next::Job(Job::Finish { file: 1 }));
        work.finished(1);
        assert_eq!(work.next(), Next::End);
    }

    #[test]
    fn an_empty_file_is_finished_without_a_fetch() {
        let mut work = Work::new([0]);
        assert_eq!(work.next(), Next::Job(Job::Prepare { file: 0 }));
        work.prepared(0, &BTreeSet::new());
        assert_eq!(work.next(), Next::Job(Job::Finish { file: 0 }));
    }

    #[test]
    fn one_job_streams_a_file_and_the_others_leave_it() {
        let mut work = Work::new([4]);
        assert_eq!(work.next(), Next::Job(Job::Prepare { file: 0 }));
        work.prepared(0, &BTreeSet::from([0]));
        assert_eq!(work.next(), fetch(0, 1));
        assert_eq!(work.next(), fetch(0, 2));
        assert_eq!(work.widen(0, false), Some(1..4));
        assert_eq!(work.widen(0, false), None);
        work.ended(0);
        assert_eq!(work.next(), Next::Wait);
        assert!(work.came(0, 1));
        assert_eq!(work.widen(0, true), Some(2..4));
    }

    proptest! {
        #[test]
        fn every_chunk_comes_whatever_the_order_of_answers(
            chunks in prop::collection::vec(0_u64..5, 1..5),
            answers in prop::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut work = Work::new(chunks.clone());
            let (mut open, mut came, mut answers) = (Vec::new(), vec![0; chunks.len()], answers.into_iter());
            for _ in 0..200 {
                match work.next() {
                    Next::Job(job) => open.push(job),
                    Next::End => break,
                    Next::Wait => match open.swap_remove(answers.next().map_or(0, |index| index.index(open.len()))) {
                        Job::Prepare { file } => work.prepared(file, &BTreeSet::new()),
                        Job::Fetch { file, chunk } => {
                            came[file] += u64::from(work.came(file, chunk));
                            work.ended(file);
                        }
                        Job::Finish { file } => {
                            prop_assert_eq!(came[file], chunks[file]);
                            work.finished(file);
                        }
                    },
                }
            }
            prop_assert_eq!(work.next(), Next::End);
            prop_assert_eq!(came, chunks);
        }
    }
}
