"""What users do, on real Docker engines: each test runs on the oldest and on a current one."""
