//! `upstreams[].outlier_detection`: the ejection of targets for their answers.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::values::{Duration, Switch};

/// The ejection of targets for their answers, by Envoy's names.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierDetection {
    /// Number of 5xx in a row that ejects a target; 0: never.
    #[schemars(extend("default" = OutlierDetection::CONSECUTIVE_5XX))]
    pub consecutive_5xx: Option<u32>,
    /// Number of 502, 503, 504 and failed connections in a row that ejects a target; 0: never.
    #[schemars(extend("default" = OutlierDetection::CONSECUTIVE_GATEWAY_FAILURE))]
    pub consecutive_gateway_failure: Option<u32>,
    /// Separate counts of failures to connect and of answers.
    #[schemars(extend("default" = OutlierDetection::SPLIT_EXTERNAL_LOCAL_ORIGIN_ERRORS))]
    pub split_external_local_origin_errors: Option<bool>,
    /// Number of failures to connect in a row that ejects a target, with `split_external_local_origin_errors` only;
    /// 0: never.
    #[schemars(extend("default" = OutlierDetection::CONSECUTIVE_LOCAL_ORIGIN_FAILURE))]
    pub consecutive_local_origin_failure: Option<u32>,
    /// Ejection of targets that succeed far less often than the others, or `off`.
    #[schemars(extend(
        "default" = "off", "examples" = [{ "minimum_hosts": 5, "request_volume": 100, "stdev_factor": 1.9 }]
    ))]
    pub success_rate: Option<Switch<SuccessRate>>,
    /// Ejection of targets whose requests fail too often, or `off`.
    #[schemars(extend(
        "default" = "off", "examples" = [{ "threshold": 85, "minimum_hosts": 5, "request_volume": 50 }]
    ))]
    pub failure_percentage: Option<Switch<FailurePercentage>>,
    /// Time between two sweeps, which judge rates and end ejections.
    #[schemars(extend("default" = OutlierDetection::INTERVAL))]
    pub interval: Option<Duration>,
    /// Length of a first ejection; each further one is longer by as much.
    #[schemars(extend("default" = OutlierDetection::BASE_EJECTION_TIME))]
    pub base_ejection_time: Option<Duration>,
    /// Longest ejection. Absent: 30s, or `base_ejection_time` where that is longer.
    #[schemars(extend("examples" = ["1m"]))]
    pub max_ejection_time: Option<Duration>,
    /// Percent of the targets that may be ejected at once.
    #[schemars(extend("default" = OutlierDetection::MAX_EJECTION_PERCENT, "examples" = [50], "maximum" = 100))]
    pub max_ejection_percent: Option<u32>,
    /// End of an ejection as soon as a health check succeeds (`successful_active_health_check_uneject_host`).
    #[schemars(extend("default" = OutlierDetection::HEALTH_CHECK_RETURNS_EJECTED))]
    pub health_check_returns_ejected: Option<bool>,
}

impl OutlierDetection {
    /// Default of `consecutive_5xx`.
    pub const CONSECUTIVE_5XX: u32 = 5;
    /// Default of `consecutive_gateway_failure`.
    pub const CONSECUTIVE_GATEWAY_FAILURE: u32 = 5;
    /// Default of `split_external_local_origin_errors`.
    pub const SPLIT_EXTERNAL_LOCAL_ORIGIN_ERRORS: bool = false;
    /// Default of `consecutive_local_origin_failure`.
    pub const CONSECUTIVE_LOCAL_ORIGIN_FAILURE: u32 = 5;
    /// Default of `interval`.
    pub const INTERVAL: Duration = Duration::from_secs(1);
    /// Default of `base_ejection_time`.
    pub const BASE_EJECTION_TIME: Duration = Duration::from_secs(10);
    /// Shortest default of `max_ejection_time`.
    pub const MAX_EJECTION_TIME: Duration = Duration::from_secs(30);
    /// Default of `max_ejection_percent`.
    pub const MAX_EJECTION_PERCENT: u32 = 100;
    /// Default of `health_check_returns_ejected`.
    pub const HEALTH_CHECK_RETURNS_EJECTED: bool = false;
}

/// The ejection of targets that succeed far less often than the others.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SuccessRate {
    /// Number of targets with enough requests below which none is judged.
    #[schemars(extend("default" = SuccessRate::MINIMUM_HOSTS))]
    pub minimum_hosts: Option<u32>,
    /// Number of requests in an interval below which a target is not judged.
    #[schemars(extend("default" = SuccessRate::REQUEST_VOLUME))]
    pub request_volume: Option<u32>,
    /// Number of standard deviations below the mean at which a target is ejected.
    #[schemars(extend("default" = SuccessRate::STDEV_FACTOR))]
    pub stdev_factor: Option<f64>,
}

impl SuccessRate {
    /// Default of `minimum_hosts`.
    pub const MINIMUM_HOSTS: u32 = 5;
    /// Default of `request_volume`.
    pub const REQUEST_VOLUME: u32 = 100;
    /// Default of `stdev_factor`.
    pub const STDEV_FACTOR: f64 = 1.9;
}

/// The ejection of targets whose requests fail too often.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailurePercentage {
    /// Percent of failed requests at which a target is ejected.
    #[schemars(extend("default" = FailurePercentage::THRESHOLD, "examples" = [50], "maximum" = 100))]
    pub threshold: Option<u32>,
    /// Number of targets with enough requests below which none is judged.
    #[schemars(extend("default" = FailurePercentage::MINIMUM_HOSTS))]
    pub minimum_hosts: Option<u32>,
    /// Number of requests in an interval below which a target is not judged.
    #[schemars(extend("default" = FailurePercentage::REQUEST_VOLUME))]
    pub request_volume: Option<u32>,
}

impl FailurePercentage {
    /// Default of `threshold`.
    pub const THRESHOLD: u32 = 85;
    /// Default of `minimum_hosts`.
    pub const MINIMUM_HOSTS: u32 = 5;
    /// Default of `request_volume`.
    pub const REQUEST_VOLUME: u32 = 50;
}
