//! What crosses when one gateway asks another what it finds in the way.

use prost::Message;

use super::{Finding, Verdict};

/// Findings in a report.
const MAX: usize = 256;

/// Asks.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Question {
    #[prost(fixed64, tag = "1")]
    pub(crate) nonce: u64,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Told {
    /// `PASS`, `FAIL` or `SKIP`.
    #[prost(string, tag = "1")]
    verdict: String,
    #[prost(string, tag = "2")]
    check: String,
    #[prost(string, tag = "3")]
    subject: String,
    #[prost(string, tag = "4")]
    found: String,
    #[prost(string, tag = "5")]
    advice: String,
}

/// Answers.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Report {
    #[prost(fixed64, tag = "1")]
    pub(crate) nonce: u64,
    #[prost(message, repeated, tag = "2")]
    told: Vec<Told>,
    /// Why there is nothing to tell.
    #[prost(string, tag = "3")]
    error: String,
}

impl Report {
    pub(crate) fn of(nonce: u64, found: Result<Vec<Finding>, String>) -> Self {
        let tell = |f: Finding| Told {
            verdict: f.verdict.as_str().to_owned(),
            check: f.check.to_owned(),
            subject: f.subject,
            found: f.found,
            advice: f.advice,
        };
        match found {
            Ok(found) => Self { nonce, told: found.into_iter().take(MAX).map(tell).collect(), error: String::new() },
            Err(error) => Self { nonce, told: Vec::new(), error },
        }
    }

    /// As findings at that site. Words that are not known here are passed over.
    pub(crate) fn findings(self, at: &str) -> Result<Vec<Finding>, String> {
        if !self.error.is_empty() {
            return Err(self.error);
        }
        let of = |t: Told| {
            let verdict =
                [Verdict::Pass, Verdict::Fail, Verdict::Skip].into_iter().find(|v| v.as_str() == t.verdict)?;
            let check = super::CHECKS.into_iter().find(|c| *c == t.check)?;
            Some(Finding { at: at.to_owned(), verdict, check, subject: t.subject, found: t.found, advice: t.advice })
        };
        Ok(self.told.into_iter().take(MAX).filter_map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_cross_and_unknown_words_are_passed_over() {
        let finding = Finding::new(Verdict::Fail, "udp", "a:1", "nothing".to_owned(), "ask");
        let report = Report::of(7, Ok(vec![finding.clone()]));
        let mut report = Report::decode(report.encode_to_vec().as_slice()).unwrap();
        assert_eq!(report.clone().findings("dc2"), Ok(vec![Finding { at: "dc2".into(), ..finding }]));
        report.told[0].check = "new".into();
        assert_eq!(report.findings("dc2"), Ok(vec![]));
        assert_eq!(Report::of(7, Err("none".into())).findings("dc2"), Err("none".into()));
    }
}
