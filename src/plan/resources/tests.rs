use super::*;

fn directory(controllers: &[&str], unified: bool) -> Directory {
    let controllers = controllers.iter().map(ToString::to_string).collect();
    Directory { controllers, unified, ..Directory::default() }
}

fn v1() -> Vec<Directory> {
    let all: &[&[&str]] = &[
        &["cpu", "cpuacct"],
        &["cpuset"],
        &["memory"],
        &["pids"],
        &["blkio"],
        &["hugetlb"],
        &["net_cls", "net_prio"],
        &["rdma"],
    ];
    all.iter().map(|controllers| directory(controllers, false)).collect()
}

fn v2() -> Vec<Directory> {
    vec![directory(&["cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma"], true)]
}

fn resources(json: &str) -> Resources {
    crate::spec::parse(json.as_bytes()).unwrap()
}

/// `file=value`. `?` follows if the file may be missing, `|` and its replacement if there is one, and `~` if it is
/// written again.
fn lines(json: &str, directories: &[Directory]) -> Result<String> {
    let line = |write: &Write| {
        let missing = match &write.missing {
            Missing::Error => String::new(),
            Missing::Ignore => "?".to_owned(),
            Missing::Instead(file, value) => format!("|{file}={value}"),
        };
        format!("{}={}{missing}{}", write.file, write.value.trim_end(), if write.again { "~" } else { "" })
    };
    Ok(writes(&resources(json), directories)?.iter().map(line).collect::<Vec<_>>().join("; "))
}

#[test]
fn conversions() {
    // The setting, v1's writes, v2's writes.
    for (asked, on_v1, on_v2) in [
        (r#"{"pids":{"limit":9}}"#, "pids.max=9", "pids.max=9"),
        (r#"{"pids":{"limit":0}}"#, "pids.max=1", "pids.max=1"),
        (r#"{"pids":{"limit":-1}}"#, "pids.max=max", "pids.max=max"),
        (r#"{"pids":{}}"#, "", ""),
        (r#"{"memory":{"limit":4096}}"#, "memory.limit_in_bytes=4096~", "memory.max=4096"),
        (r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#, "", ""),
        (
            r#"{"memory":{"limit":4096,"swap":8192,"reservation":2048}}"#,
            "memory.limit_in_bytes=4096~; memory.memsw.limit_in_bytes=8192~; memory.soft_limit_in_bytes=2048",
            "memory.swap.max=4096; memory.max=4096; memory.low=2048",
        ),
        (
            r#"{"memory":{"limit":4096,"swap":4096}}"#,
            "memory.limit_in_bytes=4096~; memory.memsw.limit_in_bytes=4096~",
            "memory.swap.max=0?; memory.max=4096",
        ),
        (
            r#"{"memory":{"limit":4096,"swap":-1}}"#,
            "memory.limit_in_bytes=4096~; memory.memsw.limit_in_bytes=-1~",
            "memory.swap.max=max?; memory.max=4096",
        ),
        (
            r#"{"memory":{"limit":-1}}"#,
            "memory.limit_in_bytes=-1~; memory.memsw.limit_in_bytes=-1?",
            "memory.swap.max=max?; memory.max=max",
        ),
        (
            r#"{"memory":{"limit":-1,"swap":8192}}"#,
            "memory.limit_in_bytes=-1~; memory.memsw.limit_in_bytes=8192~",
            "memory.swap.max=8192; memory.max=max",
        ),
        (r#"{"memory":{"reservation":-1}}"#, "memory.soft_limit_in_bytes=-1", "memory.low=max"),
        (
            r#"{"memory":{"swappiness":10,"disableOOMKiller":true,"kernel":1,"kernelTCP":2,"useHierarchy":true}}"#,
            "memory.oom_control=1; memory.swappiness=10",
            "",
        ),
        (r#"{"cpu":{"shares":1024}}"#, "cpu.shares=1024", "cpu.weight=100"),
        (r#"{"cpu":{"shares":0}}"#, "", ""),
        (r#"{"cpu":{"quota":5000}}"#, "cpu.cfs_quota_us=5000", "cpu.max=5000 100000"),
        (r#"{"cpu":{"quota":-1}}"#, "cpu.cfs_quota_us=-1", "cpu.max=max 100000"),
        (r#"{"cpu":{"period":20000}}"#, "cpu.cfs_period_us=20000~", "cpu.max=max 20000"),
        (
            r#"{"cpu":{"quota":5000,"period":20000,"burst":1000}}"#,
            "cpu.cfs_period_us=20000~; cpu.cfs_burst_us=1000?~; cpu.cfs_quota_us=5000",
            "cpu.max.burst=1000~; cpu.max=5000 20000",
        ),
        (r#"{"cpu":{"burst":0}}"#, "cpu.cfs_burst_us=0?~", "cpu.max.burst=0~"),
        (r#"{"cpu":{"idle":1,"shares":2}}"#, "cpu.shares=2; cpu.idle=1", "cpu.idle=1; cpu.weight=1"),
        (
            r#"{"cpu":{"realtimeRuntime":950000,"realtimePeriod":1000000}}"#,
            "cpu.rt_period_us=1000000~; cpu.rt_runtime_us=950000",
            "",
        ),
        (r#"{"CPU":{"Cpus":"0-1","Mems":"0"}}"#, "cpuset.cpus=0-1; cpuset.mems=0", "cpuset.cpus=0-1; cpuset.mems=0"),
        (
            r#"{"hugepageLimits":[{"pagesize":"1GB","limit":1073741824}]}"#,
            "hugetlb.1GB.limit_in_bytes=1073741824; hugetlb.1GB.rsvd.limit_in_bytes=1073741824?",
            "hugetlb.1GB.max=1073741824; hugetlb.1GB.rsvd.max=1073741824?",
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
            "hugetlb.2MB.limit_in_bytes=4194304; hugetlb.2MB.rsvd.limit_in_bytes=4194304?",
            "hugetlb.2MB.max=4194304; hugetlb.2MB.rsvd.max=4194304?",
        ),
        (
            r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#,
            "net_cls.classid=1048577; net_prio.ifpriomap=eth0 5",
            "",
        ),
        (
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":1}}}"#,
            "rdma.max=mlx4_0 hca_object=1; rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
            "rdma.max=mlx4_0 hca_object=1; rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
        ),
        (
            r#"{"blockIO":{"weight":750,"leafWeight":300}}"#,
            "blkio.weight=750|blkio.bfq.weight=750; blkio.leaf_weight=300",
            "io.bfq.weight=750|io.weight=7475",
        ),
        (
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":500,"leafWeight":300}]}}"#,
            "blkio.weight_device=8:0 500|blkio.bfq.weight_device=8:0 500; blkio.leaf_weight_device=8:0 300",
            "io.bfq.weight=8:0 500?",
        ),
        (
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
                "throttleWriteBpsDevice":[{"major":8,"minor":16,"rate":300}],
                "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":7}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":8}]}}"#,
            "blkio.throttle.read_bps_device=8:0 600; blkio.throttle.write_bps_device=8:16 300; \
             blkio.throttle.read_iops_device=8:0 7; blkio.throttle.write_iops_device=8:0 8",
            "io.max=8:0 rbps=600; io.max=8:16 wbps=300; io.max=8:0 riops=7; io.max=8:0 wiops=8",
        ),
        (r#"{"cpu":{},"memory":{},"pids":{},"blockIO":{},"network":{}}"#, "", ""),
    ] {
        assert_eq!(lines(asked, &v1()).unwrap(), on_v1, "v1: {asked}");
        assert_eq!(lines(asked, &v2()).unwrap(), on_v2, "v2: {asked}");
    }
}

#[test]
fn weights_meet_the_ends_and_the_defaults() {
    for (shares, weight) in
        [(0, None), (1, Some(1)), (2, Some(1)), (1024, Some(100)), (262_144, Some(10_000)), (1 << 40, Some(10_000))]
    {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    let weights: Vec<_> = (2..=262_144).map(|shares| weight_of_shares(shares).unwrap()).collect();
    assert!(weights.is_sorted());
    assert_eq!([10, 100, 500, 1000].map(io_weight), [1, 910, 4950, 10_000]);
}

#[test]
fn what_acts_on_processes_is_no_resource() {
    let files = ["procs", "threads", "kill", "freeze", "type", "subtree_control", "controllers", "stat.local", "x", ""];
    for file in files.map(|file| format!("cgroup.{file}")) {
        let message = lines(&format!(r#"{{"unified":{{"{file}":"1"}}}}"#), &v2()).unwrap_err().to_string();
        assert!(message.starts_with(&format!("/linux/resources/unified/{file}: ")), "{message}");
    }
    for file in ["../pids.max", "pids.max\\n", "pids. max", "pids", ".max"] {
        assert!(lines(&format!(r#"{{"unified":{{"{file}":"1"}}}}"#), &v2()).is_err(), "{file}");
    }
    for file in ["cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"] {
        assert!(lines(&format!(r#"{{"unified":{{"{file}":"1"}}}}"#), &v2()).is_ok(), "{file}");
    }
}

#[test]
fn unified_values_come_last_and_line_by_line() {
    let asked = r#"{"pids":{"limit":9},"unified":{"pids.max":"42","io.max":"8:0 rbps=1\n8:16 rbps=2"}}"#;
    let expected = "pids.max=9; io.max=8:0 rbps=1; io.max=8:16 rbps=2; pids.max=42";
    assert_eq!(lines(asked, &v2()).unwrap(), expected);
    assert_eq!(lines(r#"{"unified":{"cgroup.max.depth":"3"}}"#, &v2()).unwrap(), "cgroup.max.depth=3");
}

#[test]
fn in_a_hybrid_a_controller_is_where_it_is() {
    let mut hybrid = v1();
    hybrid.retain(|d| !d.has("hugetlb"));
    hybrid.push(directory(&["hugetlb"], true));
    let writes = writes(&resources(r#"{"pids":{"limit":9},"hugepageLimits":[{"pageSize":"2MB","limit":1}]}"#), &hybrid);
    let files: Vec<_> = writes.unwrap().into_iter().map(|w| (w.directory, w.file)).collect();
    let file = |index, name: &str| (index, name.to_owned());
    assert_eq!(files, [file(3, "pids.max"), file(7, "hugetlb.2MB.max"), file(7, "hugetlb.2MB.rsvd.max")]);
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let (v1, v2, none) = (v1(), v2(), vec![directory(&["devices"], false)]);
    for (asked, directories, message) in [
        (r#"{"memory":{"limit":-2}}"#, &v1, "/linux/resources/memory/limit: -2 is not a size; -1 is unlimited"),
        (
            r#"{"memory":{"swap":8192}}"#,
            &v2,
            "/linux/resources/memory/swap: unable to set swap limit without memory limit",
        ),
        (
            r#"{"memory":{"limit":8192,"swap":4096}}"#,
            &v2,
            "/linux/resources/memory/swap: memory+swap limit should be >= memory limit",
        ),
        (
            r#"{"memory":{"swappiness":101}}"#,
            &v1,
            "/linux/resources/memory/swappiness: invalid memory swappiness value: 101 (valid range is 0-100)",
        ),
        (r#"{"cpu":{"shares":1}}"#, &v1, "/linux/resources/cpu/shares: the minimum allowed cpu-shares is 2"),
        (r#"{"cpu":{"shares":262145}}"#, &v1, "/linux/resources/cpu/shares: the maximum allowed cpu-shares is 262144"),
        (
            r#"{"unified":{"a.b":"1"}}"#,
            &v1,
            "/linux/resources/unified: invalid configuration: cannot use unified on cgroup v1",
        ),
        (
            r#"{"unified":{"a/b":"1"}}"#,
            &v2,
            "/linux/resources/unified/a~1b: unified resource \"a/b\" must be a file name (no slashes)",
        ),
        (
            r#"{"unified":{"max":"1"}}"#,
            &v2,
            "/linux/resources/unified/max: unified resource \"max\" must be in the form CONTROLLER.PARAMETER",
        ),
        (
            r#"{"unified":{"misc.max":"1"}}"#,
            &v2,
            "/linux/resources/unified/misc.max: unified resource \"misc.max\" can't be set: controller \"misc\" not available",
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#,
            &v2,
            "/linux/resources/hugepageLimits/0/pageSize: \"../2MB\" is not a page size such as 2MB",
        ),
        (
            r#"{"cpu":{"quota":1}}"#,
            &none,
            "/linux/resources/cpu/quota: cannot set cpu limit: the host has no cpu controller",
        ),
        (
            r#"{"cpu":{"mems":"0"}}"#,
            &none,
            "/linux/resources/cpu/mems: cannot set cpuset limit: the host has no cpuset controller",
        ),
        (
            r#"{"blockIO":{"weight":10}}"#,
            &none,
            "/linux/resources/blockIO/weight: cannot set blkio limit: the host has no blkio controller",
        ),
    ] {
        assert_eq!(lines(asked, directories).unwrap_err().to_string(), message);
    }
    let error = lines(r#"{"memory":{"limit":8192,"swap":4096}}"#, &v2).unwrap_err();
    assert_eq!(error.hint(), Some("memory alone may take 8192 bytes, memory and swap together 4096"));
}

#[test]
fn empty_objects_ask_for_no_controller() {
    let asked = r#"{"cpu":{},"memory":{"checkBeforeUpdate":true},"pids":{},"blockIO":{"weight":0},"network":{}}"#;
    assert_eq!(lines(asked, &[directory(&["devices"], false)]).unwrap(), "");
}

#[test]
fn memory_is_checked_only_where_the_kernel_would_kill() {
    let asked = resources(r#"{"memory":{"limit":4096,"swap":-1,"checkBeforeUpdate":true}}"#);
    let check = MemoryCheck { directory: 0, limit: Some(4096), swap: None };
    assert_eq!(memory_check(&asked, &v2()), Some(check));
    assert_eq!(memory_check(&asked, &v1()), None);
    assert_eq!(memory_check(&resources(r#"{"memory":{"limit":4096}}"#), &v2()), None);
}

#[test]
fn what_has_no_effect_is_warned_about() {
    let asked = resources(
        r#"{"memory":{"swappiness":10,"disableOOMKiller":true,"kernel":1,"kernelTCP":2,"useHierarchy":false},
            "cpu":{"realtimeRuntime":1,"realtimePeriod":2},"blockIO":{"leafWeight":300},
            "network":{"classID":1,"priorities":[{"name":"a","priority":1}]}}"#,
    );
    let fields = |directories: &[Directory]| {
        let warned = warnings(&asked, directories);
        let fields = warned.iter().map(|w| w.split(": ").next().unwrap().trim_start_matches("/linux/resources/"));
        fields.collect::<Vec<_>>().join(" ")
    };
    let everywhere = "memory/kernel memory/kernelTCP memory/useHierarchy";
    let on_v2 = "memory/swappiness memory/disableOOMKiller cpu/realtimeRuntime cpu/realtimePeriod blockIO/leafWeight \
                 network/classID network/priorities";
    assert_eq!(fields(&v1()), everywhere);
    assert_eq!(fields(&v2()), format!("{on_v2} {everywhere}"));
    let usual = resources(r#"{"memory":{"limit":1,"disableOOMKiller":false,"useHierarchy":true,"kernel":0}}"#);
    assert_eq!(warnings(&usual, &v2()), Vec::<String>::new());
}
