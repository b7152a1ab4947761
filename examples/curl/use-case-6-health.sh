#!/bin/sh
# Use case 6: does the server answer?
set -eu

curl --fail-with-body localhost:8080/health
