"""Read the configuration files: settings, rules, contacts and limits."""
