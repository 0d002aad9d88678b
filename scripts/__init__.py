"""The operator's commands: ``workshop --help`` lists them."""
