//! Layouts that trainers read, each a function from a query with judged documents to lines of
//! files.

use serde::Serialize;
use serde_json::{Value, json};

use super::judged::{JudgedDocument, JudgedQuery};

/// A layout of training data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingLayout {
    /// `queries.jsonl`, `corpus.jsonl`, `qrels/<split>.tsv`.
    Beir,
    /// `{query_id, query, positive_passages, negative_passages}` per line.
    Tevatron,
    /// `{query, pos, neg, pos_scores, neg_scores}` per line.
    FlagEmbedding,
    /// `{query, docs, labels}` per line.
    SentenceTransformersLists,
    /// `{anchor, positive, negative_1, ...}` per line.
    SentenceTransformersTriplets,
    /// `{sentence1, sentence2, score}` per line, scores from 0 to 1.
    SentenceTransformersPairs,
    /// `topics.<split>.tsv`, `qrels.<split>.txt` and `corpus.jsonl`.
    Trec,
}

/// What a layout needs to know about all queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grades {
    /// The highest grade of the scale.
    pub highest: i64,
    /// Documents of this grade or more are positive where a layout has no grades.
    pub positive: i64,
    /// Documents of a complete query.
    pub group_size: usize,
    /// Of these, those that are negative, where each line has as many.
    pub n_negatives: usize,
}

/// A line of a file, with its end.
pub(super) type Line = (String, String);

/// Why a query is left out of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// It has fewer documents than others: trainers would repeat some of them silently.
    Incomplete,
    /// No document is positive.
    NoPositive,
    /// No document is negative.
    NoNegative,
    /// The model was shown it, or what stands together with it, as an example.
    Shown,
}

impl LeftOut {
    /// In words, for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "have fewer documents than a group",
            Self::NoPositive => "have no positive document",
            Self::NoNegative => "have no negative document",
            Self::Shown => "were shown to the model as examples, or stand together with such",
        }
    }
}

fn line(file: impl Into<String>, value: &Value) -> Line {
    (file.into(), format!("{value}\n"))
}

/// Tables of tab-separated values have no quoting.
fn cell(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

impl TrainingLayout {
    /// Whether the layout has a line for each document apart from the queries'.
    #[must_use]
    pub fn has_corpus(self) -> bool {
        matches!(self, Self::Beir | Self::Trec)
    }

    /// The lines of a query of a split, without those of its documents.
    ///
    /// # Errors
    ///
    /// Why it is left out.
    pub fn query_lines(
        self,
        query: &JudgedQuery,
        split: &str,
        grades: &Grades,
    ) -> Result<Vec<Line>, LeftOut> {
        if query.documents.len() < grades.group_size {
            return Err(LeftOut::Incomplete);
        }
        let positives = || documents(query, |it| it.grade >= grades.positive);
        let negatives = || documents(query, |it| it.grade < grades.positive);
        let needs_both = matches!(
            self,
            Self::Tevatron | Self::FlagEmbedding | Self::SentenceTransformersTriplets
        );
        if needs_both && positives().next().is_none() {
            return Err(LeftOut::NoPositive);
        }
        if needs_both && negatives().next().is_none() {
            return Err(LeftOut::NoNegative);
        }
        let jsonl = format!("{split}.jsonl");
        let texts = |of: &mut dyn Iterator<Item = &JudgedDocument>| -> Vec<String> {
            of.map(|it| it.text.clone()).collect()
        };
        let scores = |of: &mut dyn Iterator<Item = &JudgedDocument>| -> Vec<i64> {
            of.map(|it| it.grade).collect()
        };
        Ok(match self {
            Self::Beir => {
                let queries = json!({ "_id": query.id, "text": query.text });
                let mut lines = vec![line("queries.jsonl", &queries)];
                for document in &query.documents {
                    let row = format!("{}\t{}\t{}\n", query.id, document.id, document.grade);
                    lines.push((format!("qrels/{split}.tsv"), row));
                }
                lines
            }
            Self::Trec => {
                let topic = format!("{}\t{}\n", query.id, cell(&query.text));
                let mut lines = vec![(format!("topics.{split}.tsv"), topic)];
                for document in &query.documents {
                    let row = format!("{} 0 {} {}\n", query.id, document.id, document.grade);
                    lines.push((format!("qrels.{split}.txt"), row));
                }
                lines
            }
            Self::Tevatron => {
                let passages = |of: &mut dyn Iterator<Item = &JudgedDocument>| -> Vec<Value> {
                    of.map(|it| json!({ "docid": it.id, "title": "", "text": it.text }))
                        .collect()
                };
                let value = json!({
                    "query_id": query.id,
                    "query": query.text,
                    "positive_passages": passages(&mut positives()),
                    "negative_passages": passages(&mut negatives()),
                });
                vec![line(jsonl, &value)]
            }
            Self::FlagEmbedding => {
                let value = json!({
                    "query": query.text,
                    "pos": texts(&mut positives()),
                    "neg": texts(&mut negatives()),
                    "pos_scores": scores(&mut positives()),
                    "neg_scores": scores(&mut negatives()),
                });
                vec![line(jsonl, &value)]
            }
            Self::SentenceTransformersLists => {
                let all = || query.documents.iter();
                let value = json!({
                    "query": query.text,
                    "docs": texts(&mut all()),
                    "labels": scores(&mut all()),
                });
                vec![line(jsonl, &value)]
            }
            Self::SentenceTransformersTriplets => {
                // Every line of a file must have the same columns.
                let n_negatives = grades.n_negatives.max(1);
                let negatives: Vec<&JudgedDocument> = negatives().collect();
                if negatives.len() < n_negatives {
                    return Err(LeftOut::NoNegative);
                }
                positives()
                    .map(|positive| {
                        let mut value = json!({ "anchor": query.text, "positive": positive.text });
                        for (idx, negative) in negatives.iter().take(n_negatives).enumerate() {
                            value[format!("negative_{}", idx + 1)] = json!(negative.text);
                        }
                        line(jsonl.clone(), &value)
                    })
                    .collect()
            }
            Self::SentenceTransformersPairs => query
                .documents
                .iter()
                .map(|document| {
                    let score = document.grade as f64 / grades.highest.max(1) as f64;
                    let value = json!({
                        "sentence1": query.text,
                        "sentence2": document.text,
                        "score": score,
                    });
                    line(jsonl.clone(), &value)
                })
                .collect(),
        })
    }

    /// The line of a document in the corpus. `title` is there even where it is empty: loaders
    /// need it.
    #[must_use]
    pub fn document_line(document: &JudgedDocument) -> Line {
        let value = json!({ "_id": document.id, "title": "", "text": document.text });
        line("corpus.jsonl", &value)
    }

    /// The first line of a file, if it has one.
    #[must_use]
    pub fn header(self, file: &str) -> Option<&'static str> {
        (self == Self::Beir && file.starts_with("qrels/")).then_some("query-id\tcorpus-id\tscore\n")
    }
}

fn documents(
    query: &JudgedQuery,
    which: impl Fn(&JudgedDocument) -> bool,
) -> impl Iterator<Item = &JudgedDocument> {
    query
        .documents
        .iter()
        .filter(move |document| which(document))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRADES: Grades = Grades {
        highest: 3,
        positive: 3,
        group_size: 3,
        n_negatives: 2,
    };

    fn query(grades: &[i64]) -> JudgedQuery {
        JudgedQuery {
            id: "q1".to_owned(),
            query_id: "q1".to_owned(),
            text: "what\tis it".to_owned(),
            documents: grades
                .iter()
                .enumerate()
                .map(|(idx, grade)| JudgedDocument {
                    id: format!("d{idx}"),
                    text: format!("text {idx}"),
                    grade: *grade,
                })
                .collect(),
        }
    }

    fn check(layout: TrainingLayout, grades: &[i64], expected: Result<&[(&str, &str)], LeftOut>) {
        let found = layout.query_lines(&query(grades), "train", &GRADES);
        let found = found.as_deref().map(|lines| {
            let lines = lines.iter();
            lines
                .map(|(file, line)| (file.as_str(), line.trim_end_matches('\n')))
                .collect::<Vec<_>>()
        });
        let found = found.map_err(|left_out| *left_out);
        assert_eq!(found, expected.map(<[_]>::to_vec), "{layout:?}");
    }

    #[test]
    fn layouts_of_trainers() {
        use TrainingLayout as L;
        check(
            L::Beir,
            &[3, 1, 0],
            Ok(&[
                ("queries.jsonl", r#"{"_id":"q1","text":"what\tis it"}"#),
                ("qrels/train.tsv", "q1\td0\t3"),
                ("qrels/train.tsv", "q1\td1\t1"),
                ("qrels/train.tsv", "q1\td2\t0"),
            ]),
        );
        check(
            L::Trec,
            &[3, 1, 0],
            Ok(&[
                ("topics.train.tsv", "q1\twhat is it"),
                ("qrels.train.txt", "q1 0 d0 3"),
                ("qrels.train.txt", "q1 0 d1 1"),
                ("qrels.train.txt", "q1 0 d2 0"),
            ]),
        );
        check(
            L::FlagEmbedding,
            &[3, 1, 0],
            Ok(&[(
                "train.jsonl",
                r#"{"neg":["text 1","text 2"],"neg_scores":[1,0],"pos":["text 0"],"pos_scores":[3],"query":"what\tis it"}"#,
            )]),
        );
        check(
            L::SentenceTransformersLists,
            &[3, 1, 0],
            Ok(&[(
                "train.jsonl",
                r#"{"docs":["text 0","text 1","text 2"],"labels":[3,1,0],"query":"what\tis it"}"#,
            )]),
        );
        check(
            L::SentenceTransformersTriplets,
            &[3, 1, 0],
            Ok(&[(
                "train.jsonl",
                r#"{"anchor":"what\tis it","negative_1":"text 1","negative_2":"text 2","positive":"text 0"}"#,
            )]),
        );
        check(
            L::SentenceTransformersPairs,
            &[3, 3, 0],
            Ok(&[
                (
                    "train.jsonl",
                    r#"{"score":1.0,"sentence1":"what\tis it","sentence2":"text 0"}"#,
                ),
                (
                    "train.jsonl",
                    r#"{"score":1.0,"sentence1":"what\tis it","sentence2":"text 1"}"#,
                ),
                (
                    "train.jsonl",
                    r#"{"score":0.0,"sentence1":"what\tis it","sentence2":"text 2"}"#,
                ),
            ]),
        );
        check(
            L::Tevatron,
            &[3, 0, 0],
            Ok(&[(
                "train.jsonl",
                r#"{"negative_passages":[{"docid":"d1","text":"text 1","title":""},{"docid":"d2","text":"text 2","title":""}],"positive_passages":[{"docid":"d0","text":"text 0","title":""}],"query":"what\tis it","query_id":"q1"}"#,
            )]),
        );
    }

    #[test]
    fn what_a_trainer_would_misread_is_left_out() {
        use TrainingLayout as L;
        // It would repeat documents of a small group.
        for layout in [
            L::Beir,
            L::Trec,
            L::SentenceTransformersLists,
            L::FlagEmbedding,
        ] {
            check(layout, &[3, 0], Err(LeftOut::Incomplete));
        }
        // Queries with several positive documents have fewer others.
        let grades = Grades {
            n_negatives: 1,
            ..GRADES
        };
        let triplets = L::SentenceTransformersTriplets;
        let lines = triplets.query_lines(&query(&[3, 3, 0]), "train", &grades);
        assert_eq!(lines.map(|lines| lines.len()), Ok(2));
        check(L::Tevatron, &[2, 1, 0], Err(LeftOut::NoPositive));
        check(L::FlagEmbedding, &[3, 3, 3], Err(LeftOut::NoNegative));
        check(
            L::SentenceTransformersTriplets,
            &[3, 3, 0],
            Err(LeftOut::NoNegative),
        );
    }
}
