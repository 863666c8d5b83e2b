# Everything there is to type. `make help` explains it.
SHELL := /bin/sh
.DEFAULT_GOAL := help
ENV ?= production
export ENV SITE COMMAND LAB RATE REQUESTS KINDS ROUNDS FAULT GAME SEED
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test test-all lint contract example bench drill drill-deploy down status ssh manage secrets venv

help: ## This list
	@echo "Trestle: production Django on your own servers. ENV=production|staging|dev chooses the inventory."
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

venv:
	@sh tools/bootstrap.sh

demo: venv ## Stand ENV up in containers and serve a page through it; run again, it changes nothing
	@$(BIN)/python -m lab demo

status: venv ## One table: host, tier, services, health
	@$(BIN)/python -m lab status

ssh: venv ## A shell on a host of the lab: make ssh HOST=web1
	@$(BIN)/python -m lab ssh $(HOST)

down: venv ## Remove the lab of ENV
	@$(BIN)/python -m lab down

lint: venv ## ansible-lint, yamllint and ruff
	yamllint .
	ruff check .
	ruff format --check .
	@# ansible-lint reads no inventory, and ansible.cfg makes that an error.
	ANSIBLE_INVENTORY=inventories/dev/hosts.yml ansible-lint

contract: venv ## What can be checked with no host: variables, the table of services, every template
	pytest -q -n 2 tests/contract

example: venv ## The example project's own tests
	sh tools/example-tests.sh

test: venv ## Everything CI checks: lint, contract tests, the example's tests, production and projects not ours in containers
	@$(BIN)/python -m tools.test default projects

test-all: venv ## `make test` with what takes minutes each (kills, pauses, loss, reboots, rolls), and staging, perlbal, dev, more projects
	@TRESTLE_LONG=all $(BIN)/python -m tools.test default projects staging perlbal dev projects-small

bench: venv ## Measure the budgets: demo from nothing, second runs, tasks, memory
	@$(BIN)/python -m lab bench

drill: venv ## Faults on every tier under load, into docs/drills.md [ROUNDS=1] [FAULT=db-primary-kill] [GAME=60] [SEED=] [RATE=40]
	@$(BIN)/python -m tests.drills.faults

drill-deploy: venv ## Deploys, rollbacks and bad releases under load, into docs/drills.md [RATE=40] [REQUESTS=1000000]
	@$(BIN)/python -m tests.drills.deploy

manage: venv ## A management command, with a terminal: make manage SITE=newsroom COMMAND="createsuperuser" [LAB=1]
	@$(BIN)/python -m tools.manage

secrets: venv ## Write strong secrets for ENV into its vault
	@$(BIN)/python -m tools.secrets $(ENV)
