//! The scores of tasks and the averages of collections.

use super::definition::Task;
use super::scoring::{self, Mean};

/// The scores of a task, or of a collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The name.
    pub name: String,
    /// The number of examples before each question.
    pub fewshot: usize,
    /// The metrics, by name.
    pub metrics: Vec<(String, Mean)>,
}

/// Appends the averages of all complete collections: of every metric, over all questions and over the parts.
pub(crate) fn with_averages(tasks: &[Task], scores: Vec<Scores>) -> Vec<Scores> {
    let mut groups: Vec<String> = Vec::new();
    for group in tasks.iter().flat_map(Task::groups) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let averages: Vec<_> = groups.iter().filter_map(|group| average(group, tasks, &scores)).collect();
    scores.into_iter().chain(averages).collect()
}

/// The average of a group; `None` if a part is missing.
fn average(group: &str, tasks: &[Task], scores: &[Scores]) -> Option<Scores> {
    let belongs = |task: &Task| task.groups().iter().any(|name| name == group);
    let parts: Vec<&Scores> =
        tasks.iter().zip(scores).filter(|(task, _)| belongs(task)).map(|(_, scores)| scores).collect();
    let definition = &tasks.iter().find(|task| belongs(task))?.definition;
    let complete = definition.tasks().iter().filter(|task| belongs(task)).count() == parts.len();
    let first = complete.then_some(parts.first()?)?;
    let metrics = first.metrics.iter().enumerate().flat_map(|(i, (name, _))| {
        let means: Vec<Mean> = parts.iter().map(|part| part.metrics[i].1).collect();
        [
            (name.clone(), scoring::mean_by_size(&means)),
            (format!("{name},macro"), scoring::mean_of_parts(&means)),
        ]
    });
    Some(Scores { name: group.to_owned(), fewshot: first.fewshot, metrics: metrics.collect() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::definition::find;
    use super::*;

    fn scores(name: &str, right: &[f64]) -> Scores {
        Scores { name: name.into(), fewshot: 5, metrics: vec![("acc".into(), scoring::mean(right))] }
    }

    #[test]
    fn complete_collections_are_averaged() {
        let tasks = find("mmlu_stem").unwrap();
        let each = tasks.iter().enumerate().map(|(i, task)| match i {
            0 => scores(&task.name, &[1.0, 0.0, 1.0, 1.0]),
            _ => scores(&task.name, &[0.0, 1.0]),
        });
        let all = with_averages(&tasks, each.collect());
        assert_eq!(all.len(), tasks.len() + 1, "stem is complete, mmlu is not");
        let stem = all.last().unwrap();
        assert_eq!(stem.name, "mmlu_stem");
        let [(by_size, mean), (of_parts, mean_of_parts)] = &stem.metrics[..] else { panic!("{stem:?}") };
        assert_eq!((by_size.as_str(), of_parts.as_str()), ("acc", "acc,macro"));
        assert!((mean.value - 21.0 / 40.0).abs() < 1e-12 && mean.count == 40);
        assert!((mean_of_parts.value - (0.75 + 18.0 * 0.5) / 19.0).abs() < 1e-12);
    }
}
